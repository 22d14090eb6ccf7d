"""Two machines and the switch between them, made of network namespaces; Ray runs on them as docs/operations.md says.

Needs root and Debian's iproute2.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import psutil
import yaml

from ops.cluster import RAY_SETTINGS
from ops.config import ROOT, application
from tests.chaos.drill import upload_inputs
from tests.client import Client, wait_until

SWITCH, OURS = "dk-switch", "10.77.0.254"
HEAD, WORKER = "dk-head", "dk-worker"  # namespaces, and their ports of the switch
ADDRESSES = {HEAD: "10.77.0.1", WORKER: "10.77.0.2"}
PLACES = {"Dispatcher": HEAD, "ApiIngress": HEAD, "TextEncoder": WORKER, "Vae": HEAD}
BINARIES = Path(sys.executable).parent
MEMORY_BYTES = 256 * 2**20


class Machines(Client):
    """Darkroom on two machines: a Denoiser on each, the other stages on different ones."""

    def __init__(self, state: Path, log: BinaryIO) -> None:
        super().__init__(ADDRESSES[HEAD], 8000)
        self._config = state / "config.yaml"
        self._log = log
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
        config["http_options"]["host"] = "0.0.0.0"
        application(config, "generation")["args"]["state_dir"] = str(state / "darkroom")  # the machines share a disk
        application(config, "shapes")["args"] |= {"batch_invariant": True, "adapters": None}  # as in chaos.cluster
        for deployment in (each for app in config["applications"] for each in app["deployments"]):
            if deployment["name"] == "Denoiser":
                deployment |= {"num_replicas": 2, "max_replicas_per_node": 1}
                deployment["user_config"]["max_rows"] = 4  # every forward is filled up to it
            elif place := PLACES.get(deployment["name"]):
                deployment["ray_actor_options"]["resources"] = {place: 0.001}
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")

    def start(self, folder: str) -> None:
        """Start Ray on both with its files in a folder, deploy, and return when everything is there."""
        self._ray_node(HEAD, f"--head --port=6379 --temp-dir={folder}")
        self._ray_node(WORKER, f"--address={ADDRESSES[HEAD]}:6379")
        wait_until(lambda: self._run(HEAD, f"{BINARIES}/serve deploy {self._config}").wait() == 0)
        wait_until(lambda: self.replicas("Denoiser") == 2)
        wait_until(self.is_ready)

    def replicas(self, name: str) -> int:
        """How many replicas of a stage run, as far as Serve knows."""
        with suppress(OSError, ValueError, KeyError):
            return self.ask("/v1/ready")[1]["applications"]["shapes"]["deployments"][name]["running"]
        return 0

    def cut(self) -> None:
        """Pull the worker's cable out of the switch."""
        _ip(f"link set {WORKER} down")

    def mend(self) -> None:
        """Plug it in again."""
        _ip(f"link set {WORKER} up")

    def _ray_node(self, machine: str, what: str) -> None:
        """Have Ray on a machine, as a service manager does: started again where it ends."""
        own = f"--node-ip-address={ADDRESSES[machine]} --num-cpus=4 --resources='{{\"{machine}\": 1}}'"
        start = f"{BINARIES}/ray start {what} {own} --object-store-memory={MEMORY_BYTES} --block"
        self._run(machine, f"while :; do {start}; sleep 1; done")

    def _run(self, machine: str, command: str) -> subprocess.Popen[bytes]:
        environment = os.environ | RAY_SETTINGS | {"PYTHONPATH": str(ROOT)}
        words = ["ip", "netns", "exec", machine, "sh", "-c", command]
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=self._log, stderr=self._log)


@contextmanager
def running_machines(state: Path) -> Iterator[Machines]:
    """Two machines that serve, and afterwards are not there."""
    short = tempfile.TemporaryDirectory(prefix="ray-")  # a short path: it will hold sockets
    with short as folder, (state / "log").open("ab") as log:
        _remove_network()  # what a run that was killed has left
        try:
            _make_network()
            machines = Machines(state, log)
            machines.start(folder)
            upload_inputs(machines)
            yield machines
        finally:
            _remove_network()


def reaches(machine: str) -> bool:
    """Whether anything of a machine answers: a refusal is an answer."""
    try:
        socket.create_connection((ADDRESSES[machine], 1), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def _make_network() -> None:
    _ip(f"link add {SWITCH} type bridge")
    _ip(f"addr add {OURS}/24 dev {SWITCH}")
    _ip(f"link set {SWITCH} up")
    for machine, address in ADDRESSES.items():
        _ip(f"netns add {machine}")
        _ip(f"link add {machine} type veth peer name eth0 netns {machine}")
        _ip(f"link set {machine} master {SWITCH} up")
        _ip(f"-n {machine} addr add {address}/24 dev eth0")
        _ip(f"-n {machine} link set eth0 up")
        _ip(f"-n {machine} link set lo up")


def _remove_network() -> None:
    """Kill what runs on the machines, then remove them and the switch."""
    for machine in ADDRESSES:
        while pids := _ip(f"netns pids {machine}", check=False).split():
            for pid in pids:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(int(pid)).kill()
            time.sleep(0.1)
        _ip(f"link del {machine}", check=False)  # a namespace ends later, and its link with it
        _ip(f"netns del {machine}", check=False)
    _ip(f"link del {SWITCH}", check=False)


def _ip(words: str, check: bool = True) -> str:
    """Run `ip`; return what it says."""
    return subprocess.run(["ip", *words.split()], check=check, capture_output=True, text=True).stdout
