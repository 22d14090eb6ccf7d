"""A service that is made to be killed, and a client that does not give up."""

import hashlib
import io
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from math import nan
from pathlib import Path
from typing import Any

import psutil
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from ops.config import application

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "models/checkpoints/shapes"
POISON = "tree"  # the word whose embedding is not a number
MAX_WAITING = 320
READY_WITHIN_S = 180
PATIENCE_S = 180  # of a client that asks again
DEAD_WITHIN_S = 20
ENDED = ("succeeded", "failed", "cancelled", "expired")


class Cluster:
    """Darkroom as `make serve` runs it, with `batch_invariant`, and the ledger of who was killed."""

    def __init__(self, state: Path, seed: int, database_url: str | None = None, denoisers: int = 1) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.kills: list[dict[str, Any]] = []
        self._state = state
        self._config = state / "config.yaml"
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
        given, model = (application(config, name)["args"] for name in ("generation", "shapes"))
        given["database_url"] = database_url
        model["batch_invariant"] = True  # pictures can be compared bit by bit
        model["checkpoint"] = str(poisoned_checkpoint(state))
        [denoiser] = [one for one in application(config, "shapes")["deployments"] if one["name"] == "Denoiser"]
        denoiser["num_replicas"] = denoisers
        denoiser["user_config"]["max_rows"] = 4  # every forward is filled up to it: a lone picture is no slower
        given["queue"]["max_waiting"] = MAX_WAITING
        given["queue"]["result_ttl_s"] = 86400
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
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

    def redeploy(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the config and have the launcher deploy it, as `make reload` does; Serve takes its time from here."""
        assert self._process is not None
        config = yaml.safe_load(self._config.read_text(encoding="utf-8"))
        change(config)
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")
        self._process.send_signal(signal.SIGHUP)

    def other_weights(self) -> Path:
        """A copy of the checkpoint in which every weight differs a little."""
        copy = self._state / "other"
        shutil.copytree(self._state / "shapes", copy)
        for path in copy.rglob("*.safetensors"):
            save_file({name: weight * 1.01 for name, weight in load_file(path).items()}, path, {"format": "pt"})
        return copy

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """All its processes, by what they are: a replica's deployment, or the program."""
        assert self._process is not None
        for process in [psutil.Process(self._process.pid), *self._children()]:
            with suppress(psutil.Error, IndexError):
                words = process.cmdline()
                program = "ops.launch" if "ops.launch" in words else Path(words[0]).name
                yield program.split(".")[0] if program.startswith("ray::") else program, process

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

    def rest(self) -> None:
        """Return when nothing waits or runs: what an earlier drill left would be in the way of a clock."""
        wait_until(lambda: not any(self.call("/v1/queue")[1][name] for name in ("waiting", "running")), PATIENCE_S)

    def meter(self, name: str) -> Callable[[], float]:
        """What says how much processor time a deployment's replicas of now take from now on; they must not die."""
        processes = self._replicas(name)

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
        if not self._replicas(name):
            return False
        try:
            parts = self.ask("/v1/ready")[1]["applications"]["shapes"]["deployments"]
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
                status, answer, _ = self.ask(path, body, headers, source)
                if status not in (429, 503) or time.monotonic() > deadline:
                    return status, answer
            except (OSError, HTTPException, ValueError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.3)

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, source: str = "127.0.0.1"
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of an answer, whatever it is."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=90, source_address=(source, 0))
        try:
            data = None if body is None else json.dumps(body)
            method = "GET" if body is None else "POST"
            connection.request(method, path, data, {"Content-Type": "application/json"} | (headers or {}))
            answer = connection.getresponse()
            given = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, json.loads(answer.read()), given
        finally:
            connection.close()

    def submit(self, body: dict[str, Any], source: str = "127.0.0.1") -> str:
        """Have a job accepted, for the owner with an address; return its id."""
        status, job = self.call("/v1/jobs", body, {"Idempotency-Key": secrets.token_hex(8)}, source)
        if status != 202:
            raise RuntimeError(f"{status}: {job}")
        return job["id"]

    def state(self, job_id: str) -> dict[str, Any]:
        """A job as it stands."""
        return self.call(f"/v1/jobs/{job_id}")[1]

    def drawn(self, body: dict[str, Any]) -> dict[str, Any]:
        """A job, from its submission to its end."""
        end = self.end_of(self.submit(body), PATIENCE_S)
        if end is None or end["status"] != "succeeded":
            raise RuntimeError(f"{body}: {end}")
        return end

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
        deadline = time.monotonic() + PATIENCE_S
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/v1/jobs/{job_id}/watch", timeout=90) as stream:
            for line in stream:
                if line.startswith(b"data: "):
                    states.append(json.loads(line.removeprefix(b"data: ")))
                    if len(states) == at_most:
                        break
                elif time.monotonic() > deadline:  # comments alone keep it open
                    raise RuntimeError(f"the watch of {job_id} says nothing any more: {self.state(job_id)}")
        return states

    def pixels(self, job: dict[str, Any]) -> list[str]:
        """The hash of each picture's pixels."""
        return [self._hash(image["url"]) for image in job["images"]]

    def _hash(self, url: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{url}", timeout=30) as answer:
            return hashlib.sha256(Image.open(io.BytesIO(answer.read())).tobytes()).hexdigest()

    def _is_ready(self) -> bool:
        try:
            return self.ask("/v1/ready")[0] == 200
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


def poisoned_checkpoint(folder: Path) -> Path:
    """A copy of the demo model in which one word makes a picture fail: its embedding is not a number."""
    copy = folder / "shapes"
    shutil.copytree(CHECKPOINT, copy)
    tokenizer = json.loads((copy / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    word = tokenizer["model"]["vocab"][f"{POISON}</w>"]
    weights = load_file(copy / "text_encoder/model.safetensors")
    embeddings = next(name for name in weights if name.endswith("token_embedding.weight"))
    weights[embeddings][word] = nan
    save_file(weights, copy / "text_encoder/model.safetensors", metadata={"format": "pt"})
    return copy


@contextmanager
def running_cluster(state: Path, seed: int, database_url: str | None = None, denoisers: int = 1) -> Iterator[Cluster]:
    """A cluster that runs, and afterwards does not."""
    cluster = Cluster(state, seed, database_url, denoisers)
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
