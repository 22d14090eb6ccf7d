"""What benchmarks share: a service of their own, and how figures are shown."""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Service:
    """A running service: its address and its launcher's process id."""

    address: str
    pid: int

    def call(self, path: str, body: Any = None) -> Any:
        """GET, or POST a body; return the JSON of the answer."""
        data = None if body is None else json.dumps(body).encode()
        return self._send(path, data, "application/json")

    def upload(self, image: bytes) -> str:
        """Upload a PNG; return its id."""
        return self._send("/v1/inputs", image, "image/png")["id"]

    def _send(self, path: str, data: bytes | None, content_type: str) -> Any:
        request = urllib.request.Request(self.address + path, data, {"Content-Type": content_type})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read())


@contextmanager
def running_service(
    args: Mapping[str, Mapping[str, Any]] = {}, denoisers: int | None = None, **deployments: Mapping[str, Any]
) -> Iterator[Service]:
    """Start the service as `make serve` does, on a free port with a fresh state folder, and end it.

    `args` go over those of `serve_config.yaml`, `deployments` over what it says of those; and `denoisers` share its
    Denoiser's cores.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as state:
        config = Path(state) / "config.yaml"
        config.write_text(yaml.safe_dump(_changed_config(args, denoisers, deployments)))
        process = subprocess.Popen(
            [sys.executable, "-m", "ops.launch", str(config), "--port", str(port)],
            cwd=ROOT,
            env=os.environ | {"XDG_STATE_HOME": state},
            stdout=sys.stderr,
        )
        service = Service(f"http://127.0.0.1:{port}", process.pid)
        try:
            _wait_until_ready(service, process)
            yield service
        finally:
            process.terminate()
            process.wait(timeout=120)


def _changed_config(
    args: Mapping[str, Mapping[str, Any]], denoisers: int | None, deployments: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    for part, values in args.items():
        given = next(app["args"] for app in config["applications"] if part in app["args"])
        given[part] |= values
    for deployment in (each for app in config["applications"] for each in app["deployments"]):
        deployment |= deployments.get(deployment["name"], {})
        if deployment["name"] == "Denoiser" and denoisers:
            deployment["num_replicas"] = denoisers
            deployment["ray_actor_options"]["num_cpus"] /= denoisers
    return config


def _wait_until_ready(service: Service, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 900  # compiling takes minutes
    while time.monotonic() < deadline and process.poll() is None:
        try:
            service.call("/v1/ready")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise RuntimeError("the service did not become ready")


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and 95th percentile, in words."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return f"{statistics.median(ordered) * 1000:8.1f} {p95 * 1000:8.1f}"


def finish(name: str, figures: dict[str, Any]) -> None:
    """Print the last line: the figures as JSON."""
    print(json.dumps({"benchmark": name, **figures}))
