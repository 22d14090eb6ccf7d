"""Darkroom as `make serve` runs it: started, deployed anew, watched, killed and ended."""

import copy
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import yaml

from ops.cluster import RAY_SETTINGS
from ops.config import ROOT, application
from ops.status import get
from tests.client import Client, wait_until

DEAD_WITHIN_S = 20
ENDED_WITHIN_S = 120
PATHS = ("/v1/health", "/v1/hf/models/shapes/health", "/robots.txt")  # that are answered 200 once all runs
DEPLOYED = "Deployed again"  # what the launcher prints


def configured(
    queue: Mapping[str, Any] = {},
    models: Mapping[str, Mapping[str, Any]] = {},
    **deployments: Mapping[str, Any],
) -> dict[str, Any]:
    """Return `serve_config.yaml` with its `queue` and `deployments` changed, these by name.

    `models`: more models, or `shapes` itself -> args that differ. `deployments` are those of every model.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    given = application(config, "generation")["args"]
    given["queue"] |= queue
    shapes = application(config, "shapes")
    config["applications"].remove(shapes)
    served = {"shapes": {}, **models}
    given["models"] = list(served)
    for name, args in served.items():
        config["applications"].append({**copy.deepcopy(shapes), "name": name, "args": {**shapes["args"], **args}})
    for deployment in (each for app in config["applications"] for each in app["deployments"]):
        deployment |= deployments.get(deployment["name"], {})
    return config


@dataclass
class Run:
    """A command that was started, and the files it writes to."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def exit_code(self, within_s: float) -> int:
        """Wait for the end; where it does not come, kill (Ray's processes share the launcher's fate) and raise."""
        try:
            return self.process.wait(timeout=within_s)
        finally:
            self.process.kill()

    def said(self) -> str:
        """All that it has printed."""
        return self.out.read_text() + self.err.read_text()


class Cluster(Client):
    """A launcher with its Ray, and the ledger of who was killed. `seed` decides which replica of several is."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], seed: int = 0, environment: Mapping[str, str] = {}
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.kills: list[dict[str, Any]] = []
        self.folder = folder
        self.config_path = folder / "config.yaml"
        self._environment = {"XDG_STATE_HOME": str(folder), **environment}
        self.write(config)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            super().__init__("127.0.0.1", probe.getsockname()[1])
        self.answered_while_starting: Counter[int] = Counter()
        self._launcher: Run | None = None
        self._began = time.monotonic()

    @property
    def launcher(self) -> Run:
        """The launcher that was started last."""
        assert self._launcher is not None
        return self._launcher

    @property
    def config(self) -> dict[str, Any]:
        """The config file as it stands, which is what was deployed last."""
        return yaml.safe_load(self.config_path.read_text(encoding="utf-8"))

    def run(self, module: str, *options: str) -> Run:
        """Start `python -m module` in a session of its own, as a terminal's foreground job is in one."""
        logs = Path(tempfile.mkdtemp(dir=self.folder))
        with (logs / "out").open("w") as out, (logs / "err").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                cwd=ROOT,
                env=os.environ | RAY_SETTINGS | self._environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return Run(process, logs / "out", logs / "err")

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self._launcher = self.run("ops.launch", str(self.config_path), "--port", str(self._port))
        with self.asking(*PATHS) as self.answered_while_starting:
            wait_until(lambda: self.launcher.process.poll() is not None or self._is_said_to_be_ready())
        if self.launcher.process.poll() is not None:
            raise RuntimeError(self.launcher.said()[-4000:])

    @contextmanager
    def asking(self, *paths: str) -> Iterator[Counter[int]]:
        """Ask for paths again and again meanwhile; yields how often the answers had which status."""
        counted, is_over = Counter[int](), threading.Event()

        def ask() -> None:
            while not is_over.wait(0.05):
                for path in paths:
                    with suppress(OSError, HTTPException):  # nobody listens yet, or any more
                        counted[get(f"{self.address}{path}")[0]] += 1

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield counted
        finally:
            is_over.set()
            thread.join()

    def _is_said_to_be_ready(self) -> bool:
        return "Darkroom is ready" in self.launcher.out.read_text()

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self._launcher is not None and self._launcher.process.poll() is None:
            self._launcher.process.send_signal(signal.SIGINT)
            self._launcher.exit_code(ENDED_WITHIN_S)

    def deploy(self, config: Mapping[str, Any], wait: bool = True) -> None:
        """Have the launcher deploy another config, as `make reload` does; return when it is in force."""
        before = self.deployments()
        self.write(config)
        self.launcher.process.send_signal(signal.SIGHUP)
        self.wait(lambda: self.deployments() > before, self.launcher.said)
        if wait:
            self.wait(lambda: self._is_in_force(config), lambda: self.get("/v1/ready"))

    def deployments(self) -> int:
        """How often the launcher has deployed since it was ready."""
        return self.launcher.out.read_text().count(DEPLOYED)

    def write(self, config: Mapping[str, Any]) -> None:
        """Write the config file, without a word to the launcher."""
        self.config_path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")

    def _is_in_force(self, config: Mapping[str, Any]) -> bool:
        """Whether all of it runs, and no replica of before is left to answer or draw."""
        status, body = self.get("/v1/ready")
        if status != 200 or any(app["status"] != "RUNNING" for app in body["applications"].values()):
            return False
        alive = Counter(what for what, _ in self.processes())
        return all(
            alive[f"ray::ServeReplica:{app['name']}:{part['name']}"] == part["num_replicas"]
            for app in config["applications"]
            for part in app["deployments"]
            if part.get("num_replicas")
        )

    # -- what it shows

    def wait(self, condition: Callable[[], bool], otherwise: Callable[[], object] = lambda: "") -> None:
        """Ask again and again until `condition` holds; `otherwise` says what is wrong where it never does."""
        try:
            wait_until(condition)
        except RuntimeError as error:
            raise AssertionError(f"it does not happen: {otherwise()}") from error

    def state_of(self, app: str) -> dict[str, Any]:
        """What Serve says of an application, as `/v1/ready` tells it."""
        return self.get("/v1/ready")[1]["applications"].get(app, {"status": "", "deployments": {}})

    def logs(self) -> Path:
        """The folder of Ray's and Serve's logs."""
        return Path(self._announced("logs")).parent

    def metrics(self) -> str:
        """What Prometheus would scrape."""
        with urllib.request.urlopen(self._announced("metrics"), timeout=30) as answer:
            return answer.read().decode()

    def _announced(self, what: str) -> str:
        found = re.search(rf"^ +{what}: (.+)$", self.launcher.out.read_text(), re.MULTILINE)
        assert found is not None
        return found[1]

    # -- its processes

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """All its processes, by what they are: a replica's deployment, or the program."""
        for process in [psutil.Process(self.launcher.process.pid), *self._children()]:
            with suppress(psutil.Error, IndexError):
                words = process.cmdline()
                program = "ops.launch" if "ops.launch" in words else Path(words[0]).name.strip()
                yield program.split(".")[0] if program.startswith("ray::") else program, process

    def replicas(self, name: str, app: str = ".*") -> list[psutil.Process]:
        """The processes of a deployment; Ray names them so."""
        return [found for what, found in self.processes() if re.fullmatch(f"ray::ServeReplica:{app}:{name}", what)]

    def kill(self, name: str) -> None:
        """SIGKILL one replica of a deployment; return when it is dead."""
        wait_until(lambda: bool(self.replicas(name)))
        self._kill([self.random.choice(self.replicas(name))], name)

    def hang(self, app: str, deployment: str) -> None:
        """Have the event loop that serves requests, in each replica of a deployment, compute without an end."""
        [raylet] = [process for what, process in self.processes() if what == "raylet"]
        gcs = next(word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--gcs-address="))
        run = self.run("tests.served.hang", gcs, app, deployment)
        assert run.exit_code(ENDED_WITHIN_S) == 0, run.said()

    def kill_all(self) -> None:
        """SIGKILL every process of it."""
        self._kill([psutil.Process(self.launcher.process.pid), *self._children()], "everything")
        self.launcher.process.wait(timeout=DEAD_WITHIN_S)

    def meter(self, name: str) -> Callable[[], float]:
        """What says how much processor time a deployment's replicas of now take from now on; they must not die."""
        processes = self.replicas(name)

        def taken_s() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in processes)

        before = taken_s()
        return lambda: taken_s() - before

    def is_idle(self, name: str, seconds: float) -> bool:
        """Whether a deployment's replicas compute next to nothing for so long."""
        used_s = self.meter(name)
        time.sleep(seconds)
        return used_s() < 0.2 * seconds

    def is_back(self, name: str) -> bool:
        """Whether a deployment that was killed has a process again, which Serve says runs."""
        if not self.replicas(name):
            return False
        try:
            applications = self.ask("/v1/ready")[1]["applications"].values()
            [part] = [app["deployments"][name] for app in applications if name in app["deployments"]]
            return part["running"] >= 1 and part["status"] == "HEALTHY"
        except (OSError, HTTPException, ValueError, KeyError, TypeError):
            return False

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self.launcher.process.pid).children(recursive=True)

    def _kill(self, processes: list[psutil.Process], what: str) -> None:
        self.kills.append({"s": round(time.monotonic() - self._began, 1), "what": what, "pids": len(processes)})
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # its parent has died before it, and so has it
                process.kill()
        _, alive = psutil.wait_procs(processes, timeout=DEAD_WITHIN_S)
        if alive:
            raise RuntimeError(f"{alive} do not die")


@contextmanager
def halted(*processes: psutil.Process) -> Iterator[None]:
    """Processes that stand still meanwhile; well within the patience of their health checks."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def alive_in_session(session: int) -> list[str]:
    """Return the processes that a launcher started and that live, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter(["name", "status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.info["name"])
        except (ProcessLookupError, PermissionError):
            continue
    return found
