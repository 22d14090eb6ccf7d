"""A pytest plugin that limits what each test file costs, in CPU seconds of the whole process tree.

CPU seconds grow little on a busy machine; wall time grows without bound. The ini option `cpu_budgets` names a file that
lists what may cost more than its default. A run fails if a file, or a fixture of the session, takes more than twice its
budget. The cost of a session fixture counts for the fixture, not for the file that needs it first. Tests marked
`nightly` or `gpu` are measured and not limited.
"""

import os
import threading
import tomllib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

TOLERANCE = 2.0
SAMPLE_INTERVAL_S = 0.5
MAX_LINES = 20  # of the table
UNLIMITED = ("nightly", "gpu")  # markers
SESSION_END = "end of the session"
WORKER_RESULT = "cpu_seconds"


@dataclass(frozen=True)
class Usage:
    """CPU seconds of a process when it was last seen."""

    own_s: float
    reaped_s: float  # of the children that it has waited for
    parent: int


class ProcessTree:
    """CPU seconds of this process and its descendants, including those that have ended.

    A parent that waits for a child takes over its seconds. Ray's raylet ignores SIGCHLD, so nobody takes over those of
    its workers: their last sample counts. A descendant whose parent has died stays in the tree.
    """

    def __init__(self) -> None:
        self._seen: dict[psutil.Process, Usage] = {}
        self._orphaned_s = 0.0  # of processes that have ended and were not waited for
        self._lock = threading.Lock()

    def cpu_seconds(self) -> float:
        """Sample all processes; return the total since the first of them began."""
        with self._lock:
            now = self._sample()
            last = {process.pid: self._seen[process] for process in self._seen.keys() - now.keys()}
            ended: Counter[int] = Counter()
            for usage in last.values():
                ended[_survivor(usage.parent, last)] += usage.own_s + usage.reaped_s
            reaped = {process.pid: usage.reaped_s for process, usage in now.items()}
            for process, usage in self._seen.items():
                if process.pid in reaped:
                    reaped[process.pid] -= usage.reaped_s
            self._orphaned_s += sum(max(0.0, s - reaped.get(parent, 0.0)) for parent, s in ended.items())
            self._seen = now
            return self._orphaned_s + sum(usage.own_s + usage.reaped_s for usage in now.values())

    def _sample(self) -> dict[psutil.Process, Usage]:
        running: dict[psutil.Process, Usage] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error), process.oneshot():
                t = process.cpu_times()
                running[process] = Usage(t.user + t.system, t.children_user + t.children_system, process.ppid())
        ours = {os.getpid(), *(process.pid for process in self._seen if process in running)}
        while children := {p.pid for p, usage in running.items() if usage.parent in ours} - ours:
            ours |= children
        return {process: usage for process, usage in running.items() if process.pid in ours}


def _survivor(pid: int, ended: Mapping[int, Usage]) -> int:
    """The nearest ancestor that lives: it takes over what a parent that has ended too had taken over."""
    while pid in ended:
        pid = ended[pid].parent
    return pid


class Meter:
    """Seconds spent by account: a test file or a session fixture."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._tree = ProcessTree()
        self._nested: list[float] = []  # seconds that inner accounts have taken from each open one
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, daemon=True)

    def start(self) -> None:
        """Sample in the background, so that the seconds of a process that ends are known."""
        self._thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self._stop.set()

    @contextmanager
    def account(self, name: str) -> Iterator[None]:
        """Charge the seconds of a block to `name`, except those that a block inside charges to another."""
        before = self._tree.cpu_seconds()
        self._nested.append(0.0)
        try:
            yield
        finally:
            used = self._tree.cpu_seconds() - before
            self.spent[name] += used - self._nested.pop()
            if self._nested:
                self._nested[-1] += used

    def _keep_sampling(self) -> None:
        while not self._stop.wait(SAMPLE_INTERVAL_S):
            self._tree.cpu_seconds()


class Budgets:
    """The plugin: measures where tests run (this process, or xdist's workers), and judges in the main process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._meter = Meter()
        name = config.getini("cpu_budgets")
        budgets: Mapping[str, Any] = tomllib.loads((config.rootpath / name).read_text(encoding="utf-8")) if name else {}
        self._default: float | None = budgets.get("default")
        self._budgets: dict[str, float] = {**budgets.get("files", {}), **budgets.get("fixtures", {})}
        self._meter.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        path = item.path.relative_to(self._config.rootpath).as_posix()
        unlimited = next((marker for marker in UNLIMITED if item.get_closest_marker(marker)), None)
        with self._meter.account(f"{path} ({unlimited})" if unlimited else path):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        if fixturedef.scope != "session":
            return (yield)
        with self._meter.account(fixturedef.argname):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> Generator[None, object, object]:
        if nextitem is not None:
            return (yield)
        with self._meter.account(SESSION_END):
            return (yield)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._meter.spent.update(getattr(node, "workeroutput", {}).get(WORKER_RESULT, {}))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._meter.stop()
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[WORKER_RESULT] = dict(self._meter.spent)
        elif self._exceeded() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        spent = self._meter.spent
        terminalreporter.section(f"CPU seconds: {sum(spent.values()):.0f}")
        for name, seconds in spent.most_common(MAX_LINES):
            budget = self._budget(name)
            terminalreporter.write_line(f"{seconds:8.1f} {f'of {budget:g}' if budget else '':>8}  {name}")
        for name in self._exceeded():
            took = f"{name} took {spent[name]:.1f} CPU seconds"
            terminalreporter.write_line(f"ERROR: {took}; its limit is twice {self._budget(name):g}.", red=True)

    def _budget(self, name: str) -> float | None:
        if name == SESSION_END or name.endswith(tuple(f" ({marker})" for marker in UNLIMITED)):
            return None
        return self._budgets.get(name, self._default)

    def _exceeded(self) -> list[str]:
        spent = self._meter.spent
        return [name for name in spent if (budget := self._budget(name)) and spent[name] > TOLERANCE * budget]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("cpu_budgets", "file of the CPU seconds that test files may take", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Budgets(config), "cpu-budgets")
