"""The plugin that limits the CPU seconds of test files, run on small suites of its own."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.budgets import ProcessTree

ROOT = Path(__file__).parents[2]
BURN = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass"
DETACHED = f"import signal, subprocess, sys, time; signal.signal(signal.SIGCHLD, signal.SIG_IGN); \
subprocess.Popen([sys.executable, '-c', {BURN!r}, '0.9']); time.sleep(60)"
PARENT = f"import subprocess, sys; \
subprocess.run([sys.executable, '-c', {BURN + chr(10) + 'print(flush=True)' + chr(10) + 'sys.stdin.read()'!r}, '1.0'])"
TESTS = {
    "conftest.py": """
import subprocess, sys, pytest
BURN = "import time\\nwhile time.process_time() < {}: pass"

@pytest.fixture
def burn():
    return lambda seconds: subprocess.run([sys.executable, "-c", BURN.format(seconds)], check=True)

@pytest.fixture(scope="session")
def cluster():
    subprocess.run([sys.executable, "-c", BURN.format(0.5)], check=True)
""",
    "test_greedy.py": "def test_it(burn): burn(0.6)",
    "test_modest.py": "def test_it(cluster): pass\n\ndef test_again(cluster): pass",
    "test_nightly.py": "import pytest\n\n@pytest.mark.nightly\ndef test_it(burn): burn(0.6)",
}
DEFAULT = "default = 0.2"


def run_suite(folder: Path, budgets: str, *options: str) -> subprocess.CompletedProcess[str]:
    for name, content in TESTS.items():
        (folder / name).write_text(content)
    (folder / "budgets.toml").write_text(budgets)
    (folder / "pytest.ini").write_text("[pytest]\ncpu_budgets = budgets.toml\nmarkers = nightly: slow")
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "tests.budgets", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_file_that_exceeds_twice_its_budget_in_a_child_process_fails_the_run(tmp_path: Path) -> None:
    done = run_suite(tmp_path, f"{DEFAULT}\n[fixtures]\ncluster = 5")
    assert "4 passed" in done.stdout
    assert done.returncode == 1
    assert exceeded(done) == [("test_greedy.py", "0.2")]
    assert re.search(r"0\.\d +of 5  cluster\n", done.stdout)
    assert re.search(r"0\.\d +test_nightly.py \(nightly\)\n", done.stdout)


def test_the_workers_of_xdist_are_added_up_and_a_session_fixture_has_a_budget_of_its_own(tmp_path: Path) -> None:
    done = run_suite(tmp_path, f"{DEFAULT}\n[files]\n'test_greedy.py' = 5", "-n", "2")
    assert "4 passed" in done.stdout
    assert done.returncode == 1
    assert exceeded(done) == [("cluster", "0.2")]
    assert re.search(r"0\.\d +of 5  test_greedy.py\n", done.stdout)


def test_a_run_within_its_budgets_passes(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "default = 5", "test_modest.py")
    assert done.returncode == 0, done.stdout


def exceeded(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    return re.findall(r"ERROR: (\S+) took \S+ CPU seconds; its limit is twice (\S+)\.", done.stdout)


def test_seconds_of_a_process_that_nobody_waits_for_are_not_lost() -> None:
    tree = ProcessTree()
    before = tree.cpu_seconds()
    parent = subprocess.Popen([sys.executable, "-c", DETACHED])
    try:
        child = None
        deadline = time.monotonic() + 60
        while child is None or child.is_running():  # until it has ended, and its parent has not taken its seconds
            assert time.monotonic() < deadline
            tree.cpu_seconds()
            child = child or next(iter(psutil.Process(parent.pid).children()), None)
            time.sleep(0.05)
        assert sum(psutil.Process(parent.pid).cpu_times()[:4]) < 0.5
        assert tree.cpu_seconds() - before > 0.7
    finally:
        parent.kill()
        parent.wait()


def test_seconds_of_a_child_and_a_parent_that_end_together_are_counted_once() -> None:
    tree = ProcessTree()
    before = tree.cpu_seconds()
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        parent.stdout.readline()  # the child has used its seconds, and lives
        tree.cpu_seconds()
        parent.communicate()
    assert 1.0 <= tree.cpu_seconds() - before < 1.8
