"""A service that is made to be killed."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from math import nan
from pathlib import Path
from typing import Any

import psutil
import yaml
from safetensors.torch import load_file, save_file

from ops.config import application
from tests.chaos.client import READY_WITHIN_S, Client, wait_until

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "models/checkpoints/shapes"
POISON = "tree"  # the word whose embedding is not a number
MAX_WAITING = 320
DEAD_WITHIN_S = 20


class Cluster(Client):
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
            super().__init__("127.0.0.1", probe.getsockname()[1])
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
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._state / "log").read_text(errors="replace")[-4000:])
            time.sleep(0.5)

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
            applications = self.ask("/v1/ready")[1]["applications"].values()
            [part] = [app["deployments"][name] for app in applications if name in app["deployments"]]
            return part["running"] >= 1 and part["status"] == "HEALTHY"
        except (OSError, HTTPException, ValueError, KeyError, TypeError):
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
