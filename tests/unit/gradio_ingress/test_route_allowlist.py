"""Of Gradio's many routes, those that this page uses."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deployments.access import AccessPolicy
from deployments.image_store import ImageStore
from gradio_ingress.app import create_app
from gradio_ingress.route_allowlist import MAX_EVENT, MAX_UPLOAD_BODY
from tests.unit.gradio_ingress.fakes import Cluster


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Cluster(ImageStore(tmp_path)).client, AccessPolicy())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize(
    "path",
    [
        "file=http://127.0.0.1:9/x",
        "file=https://example.com/x",
        "file=HTTPS://example.com/x",
        "proxy=https://example.com/x",
        "runs",
        "run-history/records",
        "vibe-code/",
        "dev/reload",
        "custom_component/1/client/component/index.js",
    ],
)
async def test_what_no_page_of_pictures_needs_is_not_there(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(f"/gradio_api/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/jobs/job_1", "/v1/hf/models/shapes", "/v1"])
async def test_the_apis_paths_come_here_only_while_there_is_no_api(http: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = await http.request(method, path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "starting or stopping" in answer.text
    assert (await http.get("/v1x")).status_code == 404


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", f"{Path(__file__)}"])
async def test_no_file_of_this_machine_is_read(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(f"/gradio_api/file={path}")).status_code in (403, 404)


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/gradio_api/queue/join", MAX_EVENT),
        ("/gradio_api/call/generate", MAX_EVENT),
        ("/gradio_api/call/v2/generate", MAX_EVENT),
        ("/gradio_api/cancel", MAX_EVENT),
        ("/gradio_api/reset", MAX_EVENT),
        ("/gradio_api/upload", MAX_UPLOAD_BODY),
    ],
)
async def test_no_more_is_read_of_a_body_than_it_may_have(http: httpx.AsyncClient, path: str, most: int) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 2**16
            yield b"\r\n" * 2**15

    kind = "multipart/form-data; boundary=b" if "upload" in path else "application/json"
    answer = await http.post(path, content=endless(), headers={"Content-Type": kind})
    assert answer.status_code == 413
    assert sent <= most + 2**17


@pytest.mark.parametrize("name", ["darkroom", "another"])
async def test_nobody_takes_the_quotes_off_a_cookie(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unquoted: list[str] = []
    monkeypatch.setattr("http.cookies._unquote", unquoted.append)  # in a time that may grow by the square
    for method, path in (
        ("GET", "/"),
        ("GET", "/config"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/login_check"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/file=a-secret/job_1-0-1-1.png"),
    ):
        answer = await http.request(method, path, headers={"Cookie": f'{name}="{chr(92) * 16_000}"'})
        assert answer.status_code in (200, 307, 400, 422), path
    assert unquoted == []


async def test_other_origins_are_not_let_in(http: httpx.AsyncClient) -> None:
    for path in ("/", "/config", "/gradio_api/info"):
        answer = await http.get(path, headers={"Origin": "https://evil.test"})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


async def test_an_upload_has_a_limit(http: httpx.AsyncClient) -> None:
    much = b"0" * (33 * 2**20)
    assert (await http.post("/gradio_api/upload", files={"files": ("a.png", much)})).status_code == 413


async def test_gradios_clients_are_sent_to_where_pictures_are(http: httpx.AsyncClient) -> None:
    answer = await http.get("/gradio_api/file=a-secret/job_1-0-1-1.png")
    assert answer.headers["location"] == "/v1/files/job_1-0-1-1.png?link=a-secret"
