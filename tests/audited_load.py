"""Loads a checkpoint's three stages and draws one picture under an audit hook, then unpickles a file.

`python -m tests.audited_load FOLDER PICKLE` prints as JSON what was unpickled, what of the folder was run, and which
processes or connections were started; and whether it happened before the picture was drawn.
"""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

from tests.stages import Stages

CONNECTED = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.connect")


def main() -> None:
    """Load, draw, unpickle; print."""
    folder = str(Path(sys.argv[1]).resolve())
    seen: list[str] = []

    def is_run(event: str, args: tuple[Any, ...]) -> bool:
        """Whether code from the folder is compiled, imported or executed."""
        match event:
            case "exec":
                return args[0].co_filename.startswith(folder)
            case "compile" | "import":
                return str(args[1]).startswith(folder)
        return False

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "pickle.find_class" or event in CONNECTED or is_run(event, args):
            seen.append(f"{event} {' '.join(map(str, args[:2]))}")

    sys.addaudithook(watch)
    stages = Stages(Path(folder))
    shape = stages.picture(stages.spec(num_inference_steps=2)).shape
    before = list(seen)
    pickle.loads(Path(sys.argv[2]).read_bytes())
    print(json.dumps({"shape": shape, "until_it_was_drawn": before, "after": seen[len(before) :]}))


if __name__ == "__main__":
    main()
