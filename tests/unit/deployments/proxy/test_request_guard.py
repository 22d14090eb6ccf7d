"""What Serve's proxy does before and after everything else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from deployments.api.limits import MAX_BODY
from deployments.config import MAX_UPLOAD
from deployments.proxy import request_guard
from deployments.proxy.request_guard import RequestGuard
from ops.proxy import middlewares
from tests.unit.deployments.api.caller import problem


class Behind:
    """An application behind the guard: what it received, and what it answers."""

    def __init__(self) -> None:
        self.answer: Response = JSONResponse({"ok": True})
        self.headers: dict[str, str] = {}
        self.body = b""
        self.reached = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached += 1
        request = Request(scope, receive)
        self.headers, self.body = dict(request.headers), await request.body()
        await self.answer(scope, receive, send)


@pytest.fixture
def behind() -> Behind:
    return Behind()


@pytest.fixture
def caller(behind: Behind) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(RequestGuard(behind)), base_url="http://test")


async def test_what_only_serve_may_say_is_taken_off(behind: Behind, caller: httpx.AsyncClient) -> None:
    said = {"X-Request-Timeout-Seconds": "0", "X-Request-Disconnect-Disabled": "?1", "X-Mine": "stays"}
    assert (await caller.get("/v1/queue", headers=said)).json() == {"ok": True}
    assert behind.headers["x-mine"] == "stays"
    assert not {name.lower() for name in said} - {"x-mine"} & set(behind.headers)
    assert "x-request-timeout-seconds" not in behind.headers
    assert "x-request-disconnect-disabled" not in behind.headers


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 128])
async def test_a_request_keeps_its_id(behind: Behind, caller: httpx.AsyncClient, given: str) -> None:
    await caller.get("/", headers={"X-Request-ID": given})
    assert behind.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\tb", "<script>"])
async def test_a_request_without_an_id_or_with_one_that_is_none_gets_one(
    behind: Behind, caller: httpx.AsyncClient, given: str | None
) -> None:
    await caller.get("/", headers={} if given is None else {"X-Request-ID": given})
    assert len(behind.headers["x-request-id"]) == 32
    assert behind.headers["x-request-id"] != given


async def test_a_body_arrives_whole(behind: Behind, caller: httpx.AsyncClient) -> None:
    async def chunks():
        for _ in range(3):
            yield b"x" * MAX_BODY

    for content in (b"", b"{}", b"x" * (3 * MAX_BODY), chunks()):
        await caller.post("/", content=content)
        assert len(behind.body) in (0, 2, 3 * MAX_BODY)
    assert behind.reached == 4
    assert len(behind.body) == 3 * MAX_BODY


@pytest.mark.parametrize(("path", "is_ours"), [("/v1/jobs", True), ("/v1/hf/models/shapes", False)])
async def test_a_body_that_does_not_come_is_a_408_and_nobody_else_waits_for_it(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, path: str, is_ours: bool
) -> None:
    monkeypatch.setattr(request_guard, "BODY_TIMEOUT_S", 0.01)
    sent: list[dict[str, Any]] = []
    first = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> dict[str, Any]:
        if first:
            return first.pop()
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    await RequestGuard(behind)(scope, receive, send)
    assert (behind.reached, sent[0]["status"]) == (0, 408)
    assert {b"x-request-id", b"connection"} <= {name for name, _ in sent[0]["headers"]}
    assert (b'"code":"request_timeout"' in sent[1]["body"]) == is_ours
    assert b"within 0.01 s" in sent[1]["body"]


def headers_of(size: int, count: int) -> list[tuple[bytes, bytes]]:
    """So many headers, so many bytes of them as they are sent."""
    each = size // count
    rest = size - each * (count - 1)
    return [(b"n", b"v" * (length - len("n: \r\n"))) for length in [each] * (count - 1) + [rest]]


@pytest.mark.parametrize("count", [1, 2000])
@pytest.mark.parametrize(("path", "is_ours"), [("/v1/jobs", True), ("/v1/hf/models/shapes", False), ("/", True)])
async def test_headers_that_are_too_large_are_a_431_and_reach_nobody(
    behind: Behind, path: str, is_ours: bool, count: int
) -> None:
    async def answer(size: int) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        given = headers_of(size, count)
        await RequestGuard(behind)(
            {"type": "http", "method": "GET", "path": path, "headers": given, "query_string": b""}, receive, send
        )
        return sent

    refused = await answer(request_guard.MAX_HEADERS + 1)
    assert (behind.reached, refused[0]["status"]) == (0, 431)
    assert {b"x-request-id", b"connection"} <= {name for name, _ in refused[0]["headers"]}
    assert (b'"code":"headers_too_large"' in refused[1]["body"]) == is_ours
    assert b"at most 16384 bytes" in refused[1]["body"]
    assert (await answer(request_guard.MAX_HEADERS - len(path)))[0]["status"] == 200
    assert behind.reached == 1


def test_the_guard_is_the_outermost_middleware_of_the_proxy() -> None:
    assert middlewares()[-1].cls is RequestGuard


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_value"),
        (404, "not_found"),
        (405, "invalid_value"),
        (413, "body_too_large"),
        (500, "internal_error"),
        (503, "unavailable"),
    ],
)
async def test_serves_own_errors_come_in_our_words(
    behind: Behind, caller: httpx.AsyncClient, status: int, code: str
) -> None:
    behind.answer = PlainTextResponse('Traceback (most recent call last):\n  File "/secret/x.py"', status)
    answer = await caller.get("/v1/x", headers={"X-Request-ID": "abc"})
    assert problem(answer, status)["code"] == code
    assert answer.headers["x-request-id"] == "abc"


async def test_where_serve_has_no_application_the_service_starts_or_stops(
    behind: Behind, caller: httpx.AsyncClient
) -> None:
    behind.answer = PlainTextResponse("Path '/v1/jobs/job_1' not found.", 404)
    for path in ("/v1/jobs/job_1", "/v1/hf/models/shapes", "/"):
        answer = await caller.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "starting or stopping" in answer.text
    behind.answer = JSONResponse({"error": {"message": "There is no job of this id."}}, 404)
    assert (await caller.get("/v1/jobs/job_1")).status_code == 404


@pytest.mark.parametrize("path", ["/v1/jobs", "/"])
async def test_an_exception_of_serves_proxy_is_a_503_in_our_words(path: str) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("The actor died: /secret/x.py")

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        """What Serve does when it is interrupted: uvicorn would answer 500 in plain text."""

    for app in (broken, silent):
        answer = await httpx.AsyncClient(transport=httpx.ASGITransport(RequestGuard(app)), base_url="http://test").get(
            path
        )
        assert problem(answer, 503)["code"] == "unavailable"
        assert answer.headers["retry-after"] == "5"


async def test_an_exception_in_the_middle_of_an_answer_breaks_it() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    async with httpx.AsyncClient(transport=httpx.ASGITransport(RequestGuard(broken)), base_url="http://test") as caller:
        with pytest.raises(RuntimeError):
            await caller.get("/")


class Sender:
    """Somebody who sends a body as it is told, and then nothing more."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = list(parts)
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        if self._parts:
            return {"type": "http.request", "body": self._parts.pop(0), "more_body": True}
        return await asyncio.get_running_loop().create_future()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def to(self, app: RequestGuard, path: str = "/upload") -> None:
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        await app(scope, self.receive, self.send)


async def test_an_upload_that_does_not_end_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_guard, "UPLOAD_TIMEOUT_S", 0.05)
    seen: list[str] = []

    async def reader(scope: Scope, receive: Receive, send: Send) -> None:
        while seen[-1:] != ["http.disconnect"]:
            seen.append((await receive())["type"])

    sender = Sender(b"x" * (MAX_BODY + 1), b"x")  # beyond what is waited for before anybody reads
    await sender.to(RequestGuard(reader))
    assert seen == ["http.request", "http.request", "http.disconnect"]
    assert sender.sent[0]["status"] == 408
    assert b"within 0.05 s" in sender.sent[1]["body"]


async def test_all_bodies_together_are_bounded_and_given_back(
    behind: Behind, caller: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_guard, "MAX_HELD_BYTES", MAX_BODY)
    app = RequestGuard(behind)
    slow = Sender(b"x" * (MAX_BODY - 10))
    reading = asyncio.create_task(slow.to(app))
    await asyncio.sleep(0)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as caller:
        refused = await caller.post("/v1/jobs", content=b"x" * 11)
        assert problem(refused, 503)["code"] == "unavailable"
        assert (await caller.post("/v1/jobs", content=b"x" * 10)).status_code == 200
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert (await caller.post("/v1/jobs", content=b"x" * MAX_BODY)).status_code == 200


async def test_an_upload_that_would_be_too_much_with_all_others_breaks_off_and_is_a_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_guard, "MAX_HELD_BYTES", 3 * MAX_BODY)
    seen: list[str] = []

    async def reader(scope: Scope, receive: Receive, send: Send) -> None:
        while seen[-1:] != ["http.disconnect"]:
            seen.append((await receive())["type"])

    app = RequestGuard(reader)
    sender = Sender(*[b"x" * MAX_BODY] * 5)
    await sender.to(app)
    assert seen == ["http.request"] * 3 + ["http.disconnect"]
    assert sender.sent[0]["status"] == 503
    assert b"Too many bodies are being read" in sender.sent[1]["body"]
    assert app._held == 0


async def test_what_is_drained_counts_only_while_it_is_held(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_guard, "MAX_HELD_BYTES", 2 * MAX_BODY)
    sender = Sender(*[b"x" * MAX_BODY] * 4, b"")
    draining = asyncio.create_task(sender.to(RequestGuard(behind), "/v1/videos"))
    await asyncio.sleep(0.05)
    assert sender._parts == []
    draining.cancel()


def test_the_largest_upload_that_a_config_allows_arrives_in_time_at_1_mbit_a_second() -> None:
    assert 2 * MAX_UPLOAD / (10**6 / 8) < request_guard.UPLOAD_TIMEOUT_S


async def test_a_path_and_a_query_count_with_the_headers(behind: Behind, caller: httpx.AsyncClient) -> None:
    for path in ("/v1/" + "a" * request_guard.MAX_HEADERS, "/v1/queue?" + "a" * request_guard.MAX_HEADERS):
        assert problem(await caller.get(path), 431)["code"] == "headers_too_large"
    assert behind.reached == 0


@pytest.mark.parametrize("path", ["http://127.0.0.1/v1/queue", "*", "v1/queue", "evil:443", ""])
async def test_a_target_that_is_no_path_is_refused(behind: Behind, path: str) -> None:
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    sender = Sender()
    await RequestGuard(behind)(scope, sender.receive, sender.send)
    assert (behind.reached, sender.sent[0]["status"]) == (0, 400)
    assert b"begins with /" in sender.sent[1]["body"]


async def test_every_answer_has_the_requests_id_and_stays_out_of_other_sites_frames(
    behind: Behind, caller: httpx.AsyncClient
) -> None:
    for behind.answer in (JSONResponse({}), PlainTextResponse("no", 404), PlainTextResponse("all well")):
        answer = await caller.get("/", headers={"X-Request-ID": "abc"})
        assert answer.headers["x-request-id"] == "abc"
        assert answer.headers["content-security-policy"] == "frame-ancestors 'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
    behind.answer = JSONResponse({}, headers={"Content-Security-Policy": "default-src 'none'"})
    assert (await caller.get("/")).headers["content-security-policy"] == "default-src 'none'"


async def test_errors_of_the_applications_pass(behind: Behind, caller: httpx.AsyncClient) -> None:
    behind.answer = JSONResponse({"error": {"message": "m"}}, 400)
    answer = await caller.get("/v1/x")
    assert (answer.status_code, answer.json()) == (400, {"error": {"message": "m"}})


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/videos", "does not generate videos"),
        ("/images/generations", "did you mean /v1/images/generations?"),
        ("/sdapi/v1/txt2img", "AUTOMATIC1111"),
    ],
)
async def test_a_path_of_another_service_is_a_404_with_the_reason_once_its_body_is_read(
    behind: Behind, caller: httpx.AsyncClient, path: str, words: str
) -> None:
    read = 0

    async def upload() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(3):
            read += 1
            yield b"x" * MAX_BODY

    answer = await caller.post(path, content=upload(), headers={"X-Request-ID": "abc"})
    error = problem(answer, 404)
    assert (error["code"], words in error["message"]) == ("not_found", True)
    assert (read, behind.reached, answer.headers["x-request-id"]) == (3, 0, "abc")
    assert problem(await caller.get(path), 404)["message"] == error["message"]


async def test_no_more_of_a_body_is_read_for_a_path_of_another_service_than_is_worth_its_traffic(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_guard, "MAX_DRAINED_BYTES", 3 * MAX_BODY)
    sender = Sender(*[b"x" * MAX_BODY] * 9)
    await sender.to(RequestGuard(behind), "/v1/videos")
    assert len(sender._parts) == 6
    assert sender.sent[0]["status"] == 404
    assert (b"connection", b"close") in sender.sent[0]["headers"]


async def test_a_path_of_another_service_has_the_shape_of_errors_of_hugging_face_there(
    caller: httpx.AsyncClient,
) -> None:
    for path in ("/hf/models/shapes", "/v1/hf/models/shapes/pipeline/image-to-image"):
        answer = await caller.post(path, content=b"")
        assert (answer.status_code, type(answer.json()["error"])) == (404, str)


@pytest.mark.parametrize(("status", "detail"), [(404, "Not Found"), (405, "Method Not Allowed")])
async def test_an_error_that_no_route_made_comes_in_our_shape(
    behind: Behind, caller: httpx.AsyncClient, status: int, detail: str
) -> None:
    behind.answer = JSONResponse({"detail": detail}, status, headers={"Allow": "GET"} if status == 405 else {})
    answer = await caller.post("/nothing", content=b"{}")
    assert problem(answer, status)["message"] != detail
    assert answer.headers.get("allow") == ("GET" if status == 405 else None)
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_an_error_that_a_route_made_passes(behind: Behind, caller: httpx.AsyncClient) -> None:
    for status, body in (
        (404, {"detail": "Session not found"}),
        (404, {"error": "no"}),
        (403, {"detail": "Not Found"}),
    ):
        behind.answer = JSONResponse(body, status, headers={"X-Mine": "stays"})
        answer = await caller.get("/gradio_api/x")
        assert (answer.status_code, answer.json(), answer.headers["x-mine"]) == (status, body, "stays")


async def test_what_is_no_request_over_http_passes(behind: Behind) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    await RequestGuard(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert scopes == [{"type": "lifespan"}]
