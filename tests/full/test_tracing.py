"""One trace a job: from its caller's request through every stage, as an OTLP collector gets it."""

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
WITHIN_S = 180
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = {"TextEncoder encode", "Denoiser denoise", "VaeDecoder decode"}


class Collector(ThreadingHTTPServer):
    """Keeps the spans that are sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[Span] = []


class Receiver(BaseHTTPRequestHandler):
    """OTLP over HTTP, as far as an exporter needs it."""

    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sent = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
        resources = ExportTraceServiceRequest.FromString(sent).resource_spans
        self.server.spans += [span for of in resources for scope in of.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    yield collector
    collector.shutdown()


@pytest.fixture
def address(collector: Collector, tmp_path: Path) -> Iterator[str]:
    """A service that traces to the collector; of what has no caller that decides, one request in a hundred."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["tracing_config"]["enabled"] = True
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ops.launch", str(tmp_path / "config.yaml"), "--port", str(port)],
            cwd=ROOT,
            env=os.environ | endpoint | {"XDG_STATE_HOME": str(tmp_path)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait(lambda: "Darkroom is ready" in (tmp_path / "out").read_text() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "out").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.2)


def call(url: str, body: object = None, **headers: str) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_a_job_that_waits_in_line_is_one_trace_from_its_caller_to_its_last_stage(
    address: str, collector: Collector
) -> None:
    body = {"prompt": "a zebra", "num_inference_steps": 10, "num_images": 10}
    for _ in range(2):  # more than there is room for
        call(f"{address}/v1/jobs", body)
    job = call(f"{address}/v1/jobs", body | {"num_images": 1}, traceparent=f"00-{TRACE}-{CALLER}-01")
    assert job["status"] == "queued"

    def trace() -> dict[str, Span]:
        return {span.span_id.hex(): span for span in collector.spans if span.trace_id.hex() == TRACE}

    def handled() -> set[str]:
        return {span.name.removeprefix("replica_handle_request ") for span in trace().values()}

    def parents() -> set[str]:
        return {span.parent_span_id.hex() for span in trace().values()}

    wait(lambda: handled() > STAGES | {"Dispatcher submit"} and parents() <= trace().keys() | {CALLER})
    for span in trace().values():
        if span.name.removeprefix("replica_handle_request ") in STAGES:
            assert {each.key: each.value.string_value for each in span.attributes}["request_id"] == job["id"]
    assert "zebra" not in str(collector.spans)
