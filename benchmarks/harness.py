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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Service:
    """A running service: its address and its launcher's process id."""

    address: str
    pid: int

    def call(self, path: str, body: Any = None) -> Any:
        """GET, or POST a body; return the JSON of the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read())


@contextmanager
def running_service() -> Iterator[Service]:
    """Start the service as `make serve` does, on a free port with a fresh state folder, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as state:
        process = subprocess.Popen(
            [sys.executable, "-m", "ops.launch", "--port", str(port)],
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


def _wait_until_ready(service: Service, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 300
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
