"""A client that does not give up."""

import hashlib
import io
import json
import secrets
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from math import ceil
from typing import Any

from PIL import Image

READY_WITHIN_S = 180
PATIENCE_S = 180  # of a client that asks again
ENDS_WITHIN_S = 180
LONG_POLL_S = 60
TIMEOUT_S = 120
ENDED = ("succeeded", "failed", "cancelled", "expired")


class Client:
    """Darkroom's HTTP API at an address."""

    def __init__(self, host: str, port: int) -> None:
        self.address = f"http://{host}:{port}"
        self._host = host
        self._port = port

    def is_ready(self) -> bool:
        """Whether it says that it can draw."""
        try:
            return self.ask("/v1/ready")[0] == 200
        except (OSError, HTTPException, ValueError):
            return False

    def rest(self) -> None:
        """Return when nothing waits or runs: what an earlier drill left would be in the way of a clock."""
        wait_until(lambda: not any(self.call("/v1/queue")[1][name] for name in ("waiting", "running")), PATIENCE_S)

    def call(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, source: str | None = None
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
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, source: str | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of an answer, whatever it is."""
        status, content, given = self._exchange(path, body, headers, source)
        return status, json.loads(content), given

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """GET once: status and JSON; (0, None) where nothing answers, and the text where it is no JSON."""
        return self._once(path, None, headers)

    def post(self, path: str, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
        """POST a body once: bytes as they are, anything else as JSON; returns what `get` does."""
        return self._once(path, body, {"Content-Type": content_type})

    def _once(self, path: str, body: Any, headers: dict[str, str] | None) -> tuple[int, Any]:
        try:
            status, content, _ = self._exchange(path, body, headers)
        except (OSError, HTTPException):
            return 0, None
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content.decode(errors="replace")

    def _exchange(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, source: str | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        address = (source, 0) if source else None
        connection = HTTPConnection(self._host, self._port, timeout=TIMEOUT_S, source_address=address)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body)
            method = "GET" if body is None else "POST"
            connection.request(method, path, data, {"Content-Type": "application/json"} | (headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def submit(self, body: dict[str, Any], source: str | None = None) -> str:
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

    def end_of(self, job_id: str, within_s: float, source: str | None = None) -> dict[str, Any] | None:
        """How a job ended; None where it did not in time."""
        deadline = time.monotonic() + within_s
        while True:
            left_s = max(1, min(LONG_POLL_S, ceil(deadline - time.monotonic())))
            status, job = self.call(f"/v1/jobs/{job_id}", None, {"Prefer": f"wait={left_s}"}, source)
            if status != 200 or job["status"] in ENDED:
                return job if status == 200 else None
            if time.monotonic() > deadline:
                return None

    def ended(self, job_id: str) -> dict[str, Any]:
        """How a job ended, which it does in time."""
        end = self.end_of(job_id, ENDS_WITHIN_S)
        assert end is not None, self.state(job_id)
        return end

    def watch(self, job_id: str, at_most: int) -> list[dict[str, Any]]:
        """The first states of a job that a watcher sees, until its end; then the watch is cut."""
        states: list[dict[str, Any]] = []
        deadline = time.monotonic() + PATIENCE_S
        with urllib.request.urlopen(f"{self.address}/v1/jobs/{job_id}/watch", timeout=90) as stream:
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
        with urllib.request.urlopen(f"{self.address}{url}", timeout=30) as answer:
            return hashlib.sha256(Image.open(io.BytesIO(answer.read())).tobytes()).hexdigest()


def wait_until(condition: Callable[[], bool], within_s: float = READY_WITHIN_S) -> None:
    """Ask again and again until `condition` holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("it does not happen")
        time.sleep(0.5)
