"""The nginx configuration for the edge, in a real nginx, before a service of a few lines."""

import getpass
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

CONFIG = Path(__file__).parents[3] / "ops/nginx/darkroom.conf"
SECRETS = [  # in what a job's link is asked for
    "/v1/files/job_1-0-1-1.png?link=a-secret",
    "/gradio_api/file=a-secret/job_1-0-1-1.png",
    "/gradio_api/file%3Da-secret/job_1-0-1-1.png",
    "//gradio_api//file=a-secret/job_1-0-1-1.png",
    "/v1/jobs/cut?link=a-secret",
]
NO_PORT_LEFT = ("location / {", "location / { proxy_bind 192.0.2.1;")  # so that connections fail before they begin


@dataclass
class Edge:
    """Where nginx listens, and what arrived behind it."""

    port: int
    log: Path
    error_log: Path
    arrived: list[dict[str, str]] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def edge(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Edge]:
    """An nginx, with further changes of its configuration where a test's parameter has them."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("there is no nginx here (Debian: apt-get install nginx-light)")
    edge = Edge(free_port(), tmp_path / "access.log", tmp_path / "error.log")
    behind = service_behind(edge)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    server = CONFIG.read_text(encoding="utf-8")
    for was, becomes in (
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{edge.port};"),
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{behind.server_port};"),
        ("/var/log/nginx/darkroom.log", f"{edge.log}"),
        ("/var/log/nginx/darkroom-error.log", f"{edge.error_log}"),
        ("client_header_timeout 10s;", "client_header_timeout 1s;"),
        ("client_body_timeout 10s;", "client_body_timeout 1s;"),
        *getattr(request, "param", ()),
    ):
        assert was in server
        server = server.replace(was, becomes)
    server = "\n".join(line for line in server.splitlines() if "ssl_certificate" not in line)
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    known = f"user {getpass.getuser()}; daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}"
    config.write_text(f"{known} http {{ access_log off; {folders}\n{server}\n}}")
    checked = subprocess.run([nginx, "-t", "-c", config], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen([nginx, "-c", config], stderr=subprocess.DEVNULL)
    try:
        wait_for(edge.port)
        yield edge
    finally:
        edge.go_on.set()
        process.terminate()
        process.wait(timeout=20)
        behind.shutdown()


def service_behind(edge: Edge) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            edge.arrived.append({name.lower(): value for name, value in self.headers.items()})
            if self.path.startswith("/v1/jobs/cut"):
                return  # which nginx is upset about
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"data: first\n\n")
            self.wfile.flush()
            if self.path == "/v1/jobs/x/watch":
                edge.go_on.wait(30)
                self.wfile.write(b"data: second\n\n")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "nginx does not listen"
        time.sleep(0.05)


def test_what_serve_would_obey_and_its_own_routes_stay_outside(edge: Edge) -> None:
    said = {"X-Request-Timeout-Seconds": "0", "X-Request-Disconnect-Disabled": "?1", "Authorization": "Bearer dk_x"}
    assert httpx.get(f"{edge.url}/v1/queue", headers=said).status_code == 200
    [headers] = edge.arrived
    assert headers["authorization"] == "Bearer dk_x"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert not {"x-request-timeout-seconds", "x-request-disconnect-disabled"} & set(headers)
    assert httpx.get(f"{edge.url}/-/routes").status_code == 404
    assert len(edge.arrived) == 1


def test_a_browser_is_told_to_come_by_tls_alone_and_nobody_which_nginx_it_is(edge: Edge) -> None:
    answer = httpx.get(f"{edge.url}/v1/queue")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert answer.headers["server"] == "nginx"


def test_an_event_stream_is_not_held_back(edge: Edge) -> None:
    with httpx.stream("GET", f"{edge.url}/v1/jobs/x/watch", timeout=20) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: first"
        assert not edge.go_on.is_set()
        edge.go_on.set()
        assert "data: second" in list(lines)


@pytest.mark.parametrize("path", ["/gradio_api/upload?upload_id=1", "/v1/inputs"])
def test_an_image_that_is_uploaded_passes(edge: Edge, path: str) -> None:
    assert httpx.post(f"{edge.url}{path}", content=b"x" * 2**21).status_code == 200


def test_no_log_holds_a_secret_of_what_is_answered_of_what_is_refused_or_of_what_goes_wrong_behind(edge: Edge) -> None:
    with httpx.Client() as caller:
        answered = [(path, caller.get(f"{edge.url}{path}").status_code) for path in SECRETS]
        assert [status for _, status in answered] == [200, 200, 200, 200, 502]
        while {path for path, status in answered if status == 429} < set(SECRETS):
            assert len(answered) < 2000, "nothing is refused"
            path = SECRETS[len(answered) % len(SECRETS)]
            answered.append((path, caller.get(f"{edge.url}{path}").status_code))
    deadline = time.monotonic() + 20
    while len((logged := edge.log.read_text()).splitlines()) < len(answered):
        assert time.monotonic() < deadline, "not all of it is logged"
        time.sleep(0.05)
    for said in ('"GET /gradio_api/file=..." 200', '"GET /gradio_api/file=..." 429', '"GET /v1/jobs/cut" 502'):
        assert said in logged
    assert "secret" not in logged
    assert "secret" not in edge.error_log.read_text()


@pytest.mark.parametrize("edge", [[NO_PORT_LEFT]], indirect=True, ids=["no-port-left"])
def test_no_log_holds_a_secret_where_the_machine_itself_is_in_trouble(edge: Edge) -> None:
    assert [httpx.get(f"{edge.url}{path}").status_code for path in SECRETS] == [500] * len(SECRETS)
    assert edge.arrived == []
    assert "secret" not in edge.log.read_text() + edge.error_log.read_text()


def test_a_body_of_two_megabytes_does_not_pass(edge: Edge) -> None:
    assert httpx.post(f"{edge.url}/v1/jobs", content=b"x" * 2**21).status_code == 413
    assert edge.arrived == []


@pytest.mark.parametrize(
    "begun",
    [b"GET /v1/queue HTTP/1.1\r\nHost: x\r\n", b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"],
)
def test_who_does_not_go_on_is_cut_and_nobody_behind_has_noticed(edge: Edge, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as slow:
        slow.sendall(begun)
        try:
            answer = slow.recv(65536)
        except ConnectionResetError:
            answer = b""
    assert answer == b"" or b" 408 " in answer.splitlines()[0]
    assert edge.arrived == []


def test_one_address_has_so_many_requests_a_second(edge: Edge) -> None:
    with httpx.Client() as caller:
        statuses = [caller.get(f"{edge.url}/v1/queue").status_code for _ in range(180)]
    assert statuses[:50] == [200] * 50
    assert 429 in statuses
