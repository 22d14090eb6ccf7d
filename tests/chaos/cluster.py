"""A service that is made to be killed, and a client that does not give up."""

import hashlib
import io
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 180
PATIENCE_S = 180  # of a client that asks again
DEAD_WITHIN_S = 20
ENDED = ("succeeded", "failed", "cancelled", "expired")


class Cluster:
    """Darkroom as `make serve` runs it, with `batch_invariant`, and the ledger of who was killed."""

    def __init__(self, state: Path, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.kills: list[dict[str, Any]] = []
        self._state = state
        self._config = state / "config.yaml"
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
        given = config["applications"][0]["args"]
        given["model"]["batch_invariant"] = True  # pictures can be compared bit by bit
        given["denoiser"]["max_rows"] = 4  # to which every forward is filled up: a lone picture is no slower for it
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._began = time.monotonic()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with (self._state / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ops.launch", str(self._config), "--port", str(self._port)],
                cwd=ROOT,
                env=os.environ | {"XDG_STATE_HOME": str(self._state)},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._state / "log").read_text(errors="replace")[-4000:])
            time.sleep(0.2)

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=120)

    def kill(self, name: str) -> None:
        """SIGKILL one replica of a deployment; return when it is dead."""
        wait_until(lambda: bool(self._replicas(name)))
        self._kill([self.random.choice(self._replicas(name))], name)

    def kill_all(self) -> None:
        """SIGKILL every process of it."""
        assert self._process is not None
        self._kill([psutil.Process(self._process.pid), *self._children()], "everything")
        self._process.wait(timeout=DEAD_WITHIN_S)

    def runs(self, name: str) -> bool:
        """Whether Serve says that a deployment's replicas run."""
        try:
            parts = self._once("/v1/ready")[1]["applications"]["generation"]["deployments"]
            return parts[name]["running"] >= 1 and parts[name]["status"] == "HEALTHY"
        except (OSError, HTTPException, ValueError, KeyError, TypeError):
            return False

    def call(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, source: str = "127.0.0.1"
    ) -> tuple[int, Any]:
        """Status and JSON of an answer; asks again while there is none, or only a 503 or 429."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                status, answer = self._once(path, body, headers, source)
                if status not in (429, 503) or time.monotonic() > deadline:
                    return status, answer
            except (OSError, HTTPException, ValueError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.3)

    def submit(self, body: dict[str, Any], source: str = "127.0.0.1") -> str:
        """Have a job accepted, for the owner with an address; return its id."""
        status, job = self.call("/v1/jobs", body, {"Idempotency-Key": secrets.token_hex(8)}, source)
        if status != 202:
            raise RuntimeError(f"{status}: {job}")
        return job["id"]

    def end_of(self, job_id: str, within_s: float, source: str = "127.0.0.1") -> dict[str, Any] | None:
        """How a job ended; None where it did not in time."""
        deadline = time.monotonic() + within_s
        while True:
            status, job = self.call(f"/v1/jobs/{job_id}", source=source)
            if status != 200 or job["status"] in ENDED:
                return job if status == 200 else None
            if time.monotonic() > deadline:
                return None
            time.sleep(0.2)

    def watch(self, job_id: str, at_most: int) -> list[dict[str, Any]]:
        """The first states of a job that a watcher sees, until its end; then the watch is cut."""
        states: list[dict[str, Any]] = []
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/v1/jobs/{job_id}/watch", timeout=90) as stream:
            for line in stream:
                if line.startswith(b"data: "):
                    states.append(json.loads(line.removeprefix(b"data: ")))
                    if len(states) == at_most:
                        break
        return states

    def pixels(self, job: dict[str, Any]) -> list[str]:
        """The hash of each picture's pixels."""
        return [self._hash(image["url"]) for image in job["images"]]

    def _hash(self, url: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{url}", timeout=30) as answer:
            return hashlib.sha256(Image.open(io.BytesIO(answer.read())).tobytes()).hexdigest()

    def _once(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, source: str = "127.0.0.1"
    ) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=90, source_address=(source, 0))
        try:
            data = None if body is None else json.dumps(body)
            method = "GET" if body is None else "POST"
            connection.request(method, path, data, {"Content-Type": "application/json"} | (headers or {}))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def _is_ready(self) -> bool:
        try:
            return self._once("/v1/ready")[0] == 200
        except (OSError, HTTPException, ValueError):
            return False

    def _replicas(self, name: str) -> list[psutil.Process]:
        """The processes of a deployment; Ray names them so."""
        found = []
        for process in self._children():
            with suppress(psutil.NoSuchProcess):
                if f":{name}" in " ".join(process.cmdline()[:1]):
                    found.append(process)
        return found

    def _children(self) -> list[psutil.Process]:
        assert self._process is not None
        return psutil.Process(self._process.pid).children(recursive=True)

    def _kill(self, processes: list[psutil.Process], what: str) -> None:
        self.kills.append({"s": round(time.monotonic() - self._began, 1), "what": what, "pids": len(processes)})
        for process in processes:
            process.kill()
        _, alive = psutil.wait_procs(processes, timeout=DEAD_WITHIN_S)
        if alive:
            raise RuntimeError(f"{alive} do not die")


@contextmanager
def running_cluster(state: Path, seed: int) -> Iterator[Cluster]:
    """A cluster that runs, and afterwards does not."""
    cluster = Cluster(state, seed)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def wait_until(condition: Callable[[], bool], within_s: float = READY_WITHIN_S) -> None:
    """Ask again and again until `condition` holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("it does not happen")
        time.sleep(0.2)
