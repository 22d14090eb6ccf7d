"""Launchers of `sleep`s in place of Ray, which die in one way or another."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ops.config import ROOT
from tests.client import wait_until

LAUNCHER = """
import os, signal, socket, subprocess, sys
from ops.guard import guarded
lock, port = open("pyproject.toml"), socket.create_server(("127.0.0.1", 0))
for each in (lock, port):
    os.set_inheritable(each.fileno(), True)
signal.signal(signal.SIGINT, lambda *_: print("goes on", flush=True))  # as the launcher takes it
with guarded() as guard:
    child = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; exec sleep 600"], stdout=subprocess.PIPE, text=True)
    apart = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, start_new_session=True)
    print(guard, child.pid, child.stdout.readline().strip(), apart.pid, flush=True)
    sys.stdin.readline()
"""


class Launcher:
    """A launcher and its guard; what it started: a child, a grandchild, and a child in a session of its own."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", LAUNCHER]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        assert self.process.stdout is not None
        self.guard, *self.started = [psutil.Process(int(pid)) for pid in self.process.stdout.readline().split()]


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those of them that are there, and not only for nobody has asked how they ended."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    for process in alive([*launcher.started, launcher.guard]):
        process.kill()
    launcher.process.kill()


other = launcher


def test_a_launcher_that_is_killed_leaves_no_process_and_another_keeps_its_own(
    launcher: Launcher, other: Launcher
) -> None:
    assert len(launcher.started) == len(alive([*launcher.started])) == 3
    launcher.process.kill()
    wait_until(lambda: not alive([*launcher.started, launcher.guard]))
    assert len(alive([*other.started, other.guard])) == 4


def test_a_launcher_that_ends_leaves_no_process_and_no_guard(launcher: Launcher) -> None:
    launcher.process.communicate("\n")
    assert launcher.process.returncode == 0
    assert alive([*launcher.started, launcher.guard]) == []


def test_ctrl_c_does_not_reach_the_guard(launcher: Launcher) -> None:
    os.killpg(launcher.process.pid, signal.SIGINT)  # a terminal signals the whole group
    assert launcher.process.stdout is not None
    assert launcher.process.stdout.readline() == "goes on\n"
    assert alive([launcher.guard])


def test_a_guard_that_is_killed_is_missed_by_nobody(launcher: Launcher) -> None:
    launcher.guard.kill()
    assert len(alive(launcher.started)) == 3
    launcher.process.communicate("\n")
    assert launcher.process.returncode == 0


def test_a_guard_holds_no_file_of_its_launcher(launcher: Launcher) -> None:
    assert "pyproject.toml" in [Path(file.path).name for file in psutil.Process(launcher.process.pid).open_files()]
    assert "pyproject.toml" not in [Path(file.path).name for file in launcher.guard.open_files()]
    assert launcher.guard.net_connections() == []
