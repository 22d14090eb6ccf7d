"""Which hosts and pages a request may come from: asked of both applications, over HTTP."""

from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from deployments.access import AccessPolicy
from deployments.api.auth import AuthMiddleware
from deployments.keys import KEYS, Keyring, new_key
from gradio_ingress.page_auth import PageAuthMiddleware

OURS = [
    "127.0.0.1",
    "127.0.0.1:8000",
    "localhost",
    "LOCALHOST:8000",
    "[::1]:8000",
    "10.0.0.7:80",
    "a.localhost",
    "localhost.",
]
STRANGERS = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "[::1",
    "a b",
]
PAGES = {  # headers -> whether they come from the service's own page, or no page, at localhost:8000
    "a program": ({}, True),
    "its own page": ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8000"}, True),
    "typed by a person": ({"Sec-Fetch-Site": "none"}, True),
    "its own page, over plain HTTP": ({"Origin": "http://localhost:8000"}, True),
    "another site": ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, False),
    "another port of this machine": ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, False),
    "another site, over plain HTTP": ({"Origin": "http://evil.example"}, False),
    "another port, over plain HTTP": ({"Origin": "http://localhost:3000"}, False),
    "a sandboxed page": ({"Origin": "null"}, False),
    "a liar": ({"Sec-Fetch-Site": "Same-Origin", "Origin": "http://localhost:8000"}, False),
}


def caller(kind: str, *, keys: Keyring | None = None, allowed_hosts: tuple[str, ...] = ()) -> httpx.AsyncClient:
    app = PlainTextResponse("let in")
    middleware = {"api": AuthMiddleware, "page": PageAuthMiddleware}[kind]
    ingress = middleware(app, AccessPolicy(keys=keys, allowed_hosts=allowed_hosts))
    return httpx.AsyncClient(transport=httpx.ASGITransport(ingress), base_url="http://localhost:8000")


both = pytest.mark.parametrize("kind", ["api", "page"])


@both
@pytest.mark.parametrize("host", OURS)
async def test_an_address_or_localhost_is_a_name_of_this_service(kind: str, host: str) -> None:
    assert (await caller(kind).get("/queue", headers={"Host": host})).text == "let in"


@both
@pytest.mark.parametrize("host", STRANGERS)
@pytest.mark.parametrize("path", ["/queue", "/jobs", "/health", "/"])
async def test_a_page_that_rebinds_its_name_reads_nothing(kind: str, host: str, path: str) -> None:
    answer = await caller(kind).get(path, headers={"Host": host, "Sec-Fetch-Site": "same-origin"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (403, "forbidden")
    assert "allowed_hosts" in error["message"]
    assert "set-cookie" not in answer.headers


@both
async def test_the_operator_adds_names(kind: str) -> None:
    one = caller(kind, allowed_hosts=("gpu-box.lan",))
    assert (await one.get("/queue", headers={"Host": "GPU-box.lan:8000"})).text == "let in"
    assert (await one.get("/queue", headers={"Host": "evil.example"})).status_code == 403
    assert (await caller(kind, allowed_hosts=("*",)).get("/queue", headers={"Host": "any.example"})).text == "let in"


@both
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
async def test_only_its_own_page_and_programs_change_anything(kind: str, page: str, method: str) -> None:
    headers, is_own = PAGES[page]
    answer = await caller(kind).request(method, "/jobs", headers=headers)
    assert answer.status_code == (200 if is_own else 403)
    if not is_own:
        assert "another site" in answer.json()["error"]["message"]


@both
async def test_a_page_elsewhere_may_link_to_it(kind: str) -> None:
    cross = {"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"}
    assert (await caller(kind).get("/files/a.png", headers=cross)).text == "let in"


async def test_with_keys_any_name_will_do_and_a_key_is_proof_enough(tmp_path: Path) -> None:
    key, secret = new_key("ada")
    (tmp_path / "keys.json").write_bytes(KEYS.dump_json([key]))
    bearer = {"Authorization": f"Bearer {secret}", "Host": "images.example", "Origin": "chrome-extension://abc"}
    api = caller("api", keys=Keyring(tmp_path / "keys.json"))
    assert (await api.post("/jobs", headers=bearer)).text == "let in"
    page = caller("page", keys=Keyring(tmp_path / "keys.json"))
    by_cookie = {"Cookie": f"darkroom={secret}", "Host": "images.example"}
    assert (await page.get("/", headers=by_cookie)).text == "let in"
    upload = await page.post("/gradio_api/upload", headers=by_cookie | {"Sec-Fetch-Site": "same-site"})
    assert upload.status_code == 403
