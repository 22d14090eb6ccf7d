"""Who uses the page."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from deployments.access import AccessPolicy
from deployments.keys import KEYS, Keyring, new_key, owner_of_cookie
from gradio_ingress.page_auth import WRONG, PageAuthMiddleware


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(str(Request(scope).state.owner))(scope, receive, send)


def browser(keys: Keyring | None = None, scheme: str = "http") -> httpx.AsyncClient:
    app = PageAuthMiddleware(page, AccessPolicy(keys=keys))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"{scheme}://localhost")


async def test_a_browser_gets_a_name_and_keeps_it() -> None:
    async with browser() as one, browser() as other:
        first = await one.get("/")
        assert first.text.startswith("browser:")
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(first.headers["set-cookie"].split("; "))
        assert (await one.get("/")).text == (await one.post("/queue/join")).text == first.text
        assert "set-cookie" not in (await one.get("/")).headers
        assert (await other.get("/")).text != first.text


async def test_the_name_is_the_one_that_the_api_finds() -> None:
    async with browser() as one:
        owner = (await one.get("/")).text
        assert owner == owner_of_cookie(one.cookies["darkroom"], None)
        assert one.cookies["darkroom"] not in owner


async def test_a_program_without_a_cookie_has_no_name() -> None:
    async with browser() as one:
        assert (await one.post("/queue/join")).text == "None"


async def test_over_https_the_cookie_stays_there() -> None:
    async with browser(scheme="https") as one:
        assert "Secure" in (await one.get("/")).headers["set-cookie"]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Keyring, str]:
    key, secret = new_key("ada")
    (tmp_path / "keys.json").write_bytes(KEYS.dump_json([key]))
    return Keyring(tmp_path / "keys.json"), secret


async def test_with_keys_the_page_asks_for_one(keys: tuple[Keyring, str]) -> None:
    async with browser(keys[0]) as one:
        asked = await one.get("/")
        assert (asked.status_code, "API key" in asked.text) == (200, True)
        for method, path in (("POST", "/gradio_api/queue/join"), ("GET", "/config")):
            answer = await one.request(method, path)
            assert (answer.status_code, "API key" in answer.text) == (401, True)
        answer = await one.post("/login", data={"key": keys[1]})
        assert (answer.status_code, answer.headers["location"]) == (303, "./")
        assert (await one.get("/")).text == keys[0].find(keys[1]).owner


async def test_another_site_cannot_let_its_visitors_in_with_a_key_of_its_own(keys: tuple[Keyring, str]) -> None:
    async with browser(keys[0]) as one:
        for site in ("cross-site", "same-site"):
            answer = await one.post("/login", data={"key": keys[1]}, headers={"Sec-Fetch-Site": site})
            assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
        answer = await one.post("/login", data={"key": keys[1]}, headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 303


async def test_with_keys_a_program_sends_one_and_without_them_it_means_nothing(keys: tuple[Keyring, str]) -> None:
    headers = {"Authorization": f"Bearer {keys[1]}"}
    async with browser(keys[0]) as one, browser() as open_to_all:
        assert (await one.post("/gradio_api/queue/join", headers=headers)).text == keys[0].find(keys[1]).owner
        assert (await open_to_all.post("/gradio_api/queue/join", headers=headers)).text == "None"
        one.cookies.set("darkroom", keys[1])
        wrong = await one.post("/gradio_api/queue/join", headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 401


async def test_what_is_no_form_is_refused_in_words(keys: tuple[Keyring, str]) -> None:
    async with browser(keys[0]) as one:
        for sent in ({"data": {"key": "a", "other": "b"}}, {"files": {"key": ("a.txt", b"a")}}):
            answer = await one.post("/login", **sent)
            assert (answer.status_code, WRONG in answer.text) == (400, True)


@pytest.mark.parametrize("charset", ["utf-7", "utf-16", "unicode_escape", "idna", "rot13", "no-such-charset", "base64"])
async def test_no_character_set_breaks_the_form(keys: tuple[Keyring, str], charset: str) -> None:
    type_of = {"Content-Type": f"application/x-www-form-urlencoded; charset={charset}"}
    async with browser(keys[0]) as one:
        for key in (b"+2AA-", b"%2B2AA-", b"\\ud800", b"\xff\xfe"):
            answer = await one.post("/login", content=b"key=" + key, headers=type_of)
            assert answer.status_code in (400, 401), (charset, key)


@pytest.mark.parametrize("charset", ["undefined", "utf-7", "no-such-charset"])
async def test_no_character_set_of_a_form_in_parts_breaks_it(keys: tuple[Keyring, str], charset: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    body = b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\na\r\n--x--\r\n'
    async with browser(keys[0]) as one:
        assert (await one.post("/login", content=body, headers=headers)).status_code in (400, 401)


@pytest.mark.parametrize("data", [{}, {"key": ""}, {"key": "wrong"}, {"other": "x"}])
async def test_what_is_no_key_is_refused_in_words(keys: tuple[Keyring, str], data: Any) -> None:
    async with browser(keys[0]) as one:
        answer = await one.post("/login", data=data)
        assert (answer.status_code, WRONG in answer.text) == (401, True)
        assert "set-cookie" not in answer.headers
        one.cookies.set("darkroom", "wrong")
        assert "API key" in (await one.get("/")).text
