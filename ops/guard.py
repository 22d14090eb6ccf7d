"""Ends the processes of a launcher that died without ending them, as by SIGKILL.

Ray's agents outlive their raylet by a minute and more, and a signal at a parent's death (`PR_SET_PDEATHSIG`) reaches no
grandchildren. So the launcher marks the environment that its processes inherit, and starts one beside them that waits
for the end of a pipe which the launcher alone holds open. Then it kills whatever has the mark.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MARK = "DARKROOM_SERVICE"  # an environment variable


@contextmanager
def guarded() -> Iterator[int]:
    """Have all that is started meanwhile killed once this process is gone, or has left; yield the guard's pid."""
    mark = secrets.token_hex(16)
    command = [sys.executable, "-m", "ops.guard", mark]
    # In a session of its own: Ctrl-C in a terminal must not end it before the launcher.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as guard:
        os.environ |= {MARK: mark, "SPT_NOENV": "1"}  # else Ray's agents write their titles over their environments
        try:
            yield guard.pid
        finally:
            del os.environ[MARK]


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that were started with a mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or is another user's
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def kill(processes: list[psutil.Process]) -> None:
    """Kill what is left of `processes`, and see them go."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=3)  # so that none is there any more when we are not


def main() -> None:
    """Wait until the launcher is gone, and kill what it started, and what that starts meanwhile."""
    sys.stdin.buffer.read()
    while processes := marked(sys.argv[1]):
        kill(processes)


if __name__ == "__main__":
    main()
