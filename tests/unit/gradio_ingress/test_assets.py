"""The files of Gradio's front end, sent without a replica."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from deployments.access import AccessPolicy
from gradio_ingress.app import create_app
from gradio_ingress.assets import FOREVER, Assets
from tests.unit.gradio_ingress.test_page import DispatcherClient, Down

BEHIND = PlainTextResponse("from behind")


@pytest.fixture
def caller() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(Assets(BEHIND)), base_url="http://localhost")


async def page() -> str:
    app = create_app(DispatcherClient(Down()), AccessPolicy())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        return (await client.get("/")).text


async def test_what_is_large_is_not_packed(caller: httpx.AsyncClient) -> None:
    async with caller.stream("GET", "/static/ffmpeg/ffmpeg-core.wasm") as answer:
        assert (answer.status_code, answer.headers["content-encoding"]) == (200, "identity")
    assert (await caller.get("/static/nothing.js")).json()["error"]["code"] == "not_found"


async def test_what_the_page_begins_with_is_sent_packed_and_kept_for_ever(caller: httpx.AsyncClient) -> None:
    names = re.findall(r"\./(assets/[^\"]+)", await page())
    assert len(names) >= 2
    for name in names:
        answer = await caller.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == FOREVER
        assert answer.headers["content-encoding"] == "gzip"


async def test_a_font_is_sent(caller: httpx.AsyncClient) -> None:
    answer = await caller.get("/static/fonts/IBMPlexSans/IBMPlexSans-Regular.woff2")
    assert answer.content.startswith(b"wOF2")


@pytest.mark.parametrize("path", ["/", "/theme.css", "/assets", "/v1/assets/x.js", "/gradio_api/info"])
async def test_everything_else_is_passed_on(caller: httpx.AsyncClient, path: str) -> None:
    assert (await caller.get(path)).text == "from behind"


@pytest.mark.parametrize("path", ["nothing.js", "%2e%2e/index.html", "..%2f..%2f..%2froutes.py", "/etc/passwd", ""])
async def test_there_is_nothing_but_those_files(caller: httpx.AsyncClient, path: str) -> None:
    for folder in ("assets", "static"):
        assert (await caller.get(f"/{folder}/{path}")).status_code == 404


async def test_nothing_can_be_put_there(caller: httpx.AsyncClient) -> None:
    assert (await caller.post("/assets/nothing.js", content=b"x")).status_code == 405


def test_serves_proxy_loads_neither_gradio_nor_torch() -> None:
    code = "import ops.proxy, sys; ops.proxy.middlewares(); assert not {'gradio', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
