"""`make reload`: the running Darkroom reads its config file again and deploys what has changed in it."""

import argparse
import os
import signal
import sys
from pathlib import Path

from ops.config import ROOT, UnusableConfig, read
from ops.status import NotRunning, running


def main() -> int:
    """Check the file first; 1 when it cannot be used or nothing runs."""
    parser = argparse.ArgumentParser(prog="python -m ops.reload", description=__doc__)
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "serve_config.yaml")
    path = parser.parse_args().config.absolute()
    try:
        holder = running(read(path).generation)
    except (UnusableConfig, NotRunning) as error:
        print(error, file=sys.stderr)
        return 1
    if holder.config != str(path):
        print(f"Process {holder.pid} serves {holder.config}, and reads that again, not {path}.", file=sys.stderr)
        return 1
    os.kill(holder.pid, signal.SIGHUP)
    print(f"Process {holder.pid} reads its config again; `make status` shows how it goes.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
