"""How many requests may be open, and when a stream ends whose key was removed."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp

from deployments import open_requests
from deployments.access import AccessPolicy
from deployments.api.auth import AuthMiddleware
from deployments.errors import TooManyRequests
from deployments.keys import KEYS, Keyring, new_key
from deployments.open_requests import OpenRequests
from gradio_ingress.page_auth import PageAuthMiddleware
from models.errors import Unavailable

Ingress = Callable[[ASGIApp, AccessPolicy], ASGIApp]
both = pytest.mark.parametrize("ingress", [AuthMiddleware, PageAuthMiddleware])


def caller(app: ASGIApp, address: str = "127.0.0.1") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://localhost")


def test_one_owner_may_have_a_quarter_open() -> None:
    requests = OpenRequests(40)
    with ExitStack() as open_now:
        for _ in range(10):
            open_now.enter_context(requests.counted("ada"))
        with pytest.raises(TooManyRequests, match="At most 10 requests"), requests.counted("ada"):
            pass
        with requests.counted("bob"):
            pass
    with requests.counted("ada"):
        pass


def test_all_owners_leave_room_for_probes() -> None:
    requests = OpenRequests(40)
    with ExitStack() as open_now:
        for number in range(36):
            open_now.enter_context(requests.counted(f"owner {number}"))
        with pytest.raises(Unavailable, match="36 requests are open"), requests.counted("bob"):
            pass
    with requests.counted("bob"):
        pass


def test_one_address_may_have_half_open_under_any_names() -> None:
    requests = OpenRequests(40)
    with ExitStack() as open_now:
        for number in range(20):
            open_now.enter_context(requests.counted(f"browser:{number}", "peer:10.0.0.1"))
        with pytest.raises(TooManyRequests, match="At most 20"), requests.counted("browser:20", "peer:10.0.0.1"):
            pass
        with requests.counted("browser:20", "peer:10.0.0.2"):
            pass
    with requests.counted("peer:10.0.0.1", "peer:10.0.0.1"):
        assert requests._open_of["peer:10.0.0.1"] == 1


def test_whoever_leaves_is_forgotten() -> None:
    requests = OpenRequests(40)
    for number in range(100):
        with pytest.raises(RuntimeError), requests.counted(f"owner {number}"):
            raise RuntimeError
    assert (requests._open, dict(requests._open_of)) == (0, {})


@both
async def test_streams_of_one_caller_keep_no_other_and_no_probe_waiting(ingress: Ingress) -> None:
    streams = asyncio.Event()

    async def stream():
        yield b"a"
        await streams.wait()

    async def app(scope, receive, send) -> None:
        answer = StreamingResponse(stream()) if scope["path"] == "/watch" else PlainTextResponse("here")
        await answer(scope, receive, send)

    served = ingress(app, AccessPolicy(max_ongoing_requests=8))
    greedy, other = caller(served, "10.0.0.1"), caller(served, "10.0.0.2")
    watching = [asyncio.create_task(greedy.get("/watch")) for _ in range(2)]
    await asyncio.sleep(0)
    refused = await greedy.get("/watch")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
    assert refused.headers["retry-after"] == "5"
    assert (await other.get("/jobs")).text == "here"
    if ingress is AuthMiddleware:
        assert (await greedy.get("/health")).text == "here"
        assert (await greedy.delete("/jobs/job_1")).text == (await greedy.post("/jobs/job_1/cancel")).text == "here"
    streams.set()
    assert {(await one).status_code for one in watching} == {200}
    assert (await greedy.get("/jobs")).text == "here"


@both
async def test_a_stream_ends_once_its_key_is_removed(
    ingress: Ingress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_requests, "CHECK_INTERVAL_S", 0.02)
    file = tmp_path / "keys.json"
    (ada, removed), (bob, kept) = new_key("ada"), new_key("bob")
    file.write_bytes(KEYS.dump_json([ada, bob]))
    begun: list[str] = []

    async def endless(name: str):
        while True:
            begun.append(name)
            yield b"a"
            await asyncio.sleep(0.01)

    async def app(scope, receive, send) -> None:
        await StreamingResponse(endless(scope["state"]["owner"]))(scope, receive, send)

    served = ingress(app, AccessPolicy(keys=Keyring(file)))

    async def watch(secret: str) -> None:
        headers = [(b"authorization", f"Bearer {secret}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/watch", "headers": headers, "query_string": b""}
        await served(scope, asyncio.get_running_loop().create_future, asyncio.Queue().put)

    ends, stays = asyncio.create_task(watch(removed)), asyncio.create_task(watch(kept))
    while {ada.owner, bob.owner} - set(begun):
        await asyncio.sleep(0.01)
    file.write_bytes(KEYS.dump_json([bob]))
    async with asyncio.timeout(10):
        await ends
    assert not stays.done()
    stays.cancel()


def test_serve_lets_enough_in_for_the_shares_to_mean_something() -> None:
    config = yaml.safe_load(Path("serve_config.yaml").read_text())
    deployments = {each["name"]: each for app in config["applications"] for each in app["deployments"]}
    for name in ("ApiIngress", "GradioIngress"):
        assert deployments[name]["max_ongoing_requests"] * open_requests.OF_ONE >= 200
