"""What Serve's proxy does with a connection: the protocol that it is given, in the uvicorn that Serve starts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from ray.serve._private.http_util import start_asgi_http_server
from ray.serve.config import HTTPOptions
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deployments.api.limits import MAX_BODY
from deployments.proxy import connection, request_guard
from deployments.proxy.connection import MAX_HEAD, Connection
from deployments.proxy.request_guard import RequestGuard
from ops.proxy import middlewares

WITHIN_S = 10.0


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await JSONResponse({"body": body.decode(), "method": scope["method"]})(scope, receive, send)


class Server:
    """A proxy's uvicorn, and callers who write bytes."""

    def __init__(self, uvicorn: uvicorn.Server) -> None:
        self.uvicorn = uvicorn

    @property
    def port(self) -> int:
        return self.uvicorn.servers[0].sockets[0].getsockname()[1]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def answer(self, *sent: bytes) -> tuple[int, Any]:
        """Status and body of the answer to what is sent, part by part; 0 where the connection just ends."""
        reader, writer = await self.connect()
        async with asyncio.timeout(WITHIN_S):
            with suppress(ConnectionError):
                for part in sent:
                    writer.write(part)
                    await writer.drain()
            received = b""
            with suppress(ConnectionError):
                while b"\r\n\r\n" not in received or not received.endswith(b"}"):
                    if not (part := await reader.read(65536)):
                        break
                    received += part
        writer.close()
        head, _, body = received.partition(b"\r\n\r\n")
        return (int(head.split()[1]), json.loads(body)) if head else (0, None)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    middlewares()
    options, loop = HTTPOptions(port=0), asyncio.get_running_loop()
    serving, started = await start_asgi_http_server(RequestGuard(echo), options, event_loop=loop)
    server = Server(started)
    while not server.uvicorn.started:
        await asyncio.sleep(0.01)
    yield server
    server.uvicorn.should_exit = True
    server.uvicorn.force_exit = True
    await serving


def request(*headers: bytes, body: bytes = b"") -> bytes:
    lines = [b"POST /v1/jobs HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def test_serves_proxy_reads_connections_with_it_though_httptools_is_installed(server: Server) -> None:
    assert server.uvicorn.config.http_protocol_class is Connection
    assert auto.AutoHTTPProtocol is HttpToolsProtocol  # which uvicorn would take, and which loses bodies


async def test_a_head_above_its_bound_is_not_taken_into_memory(server: Server) -> None:
    held: list[int] = []
    parts = [request()[:-2], b"n: "]
    reader, writer = await server.connect()
    writer.write(b"".join(parts))
    sent = 0
    with suppress(ConnectionError):
        async with asyncio.timeout(WITHIN_S):
            while sent < 100 * MAX_HEAD:
                writer.write(b"v" * 8192)
                await writer.drain()
                sent += 8192
                held.extend(len(bytes(one.conn._receive_buffer)) for one in server.uvicorn.server_state.connections)
                await asyncio.sleep(0)
                if reader.at_eof():
                    break
    writer.close()
    assert sent < 100 * MAX_HEAD
    assert max(held) <= MAX_HEAD + 256 * 1024  # and what is read at once


async def test_headers_are_answered_431_up_to_that_and_400_beyond(server: Server) -> None:
    status, body = await server.answer(request(b"n: " + b"v" * 20_000))
    assert (status, body["error"]["code"]) == (431, "headers_too_large")
    status, body = await server.answer(request()[:-2] + b"n: " + b"v" * (2 * MAX_HEAD))
    assert (status, body["error"]["code"]) == (400, "invalid_value")
    assert "64 KiB" in body["error"]["message"]


@pytest.mark.parametrize("sent", [b"\x16\x03\x01 no HTTP\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_http_is_refused_in_the_words_of_the_api(server: Server, sent: bytes) -> None:
    status, body = await server.answer(sent)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost:"])
async def test_a_head_that_does_not_come_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.05)
    assert await server.answer(first) == (0, None)


async def test_a_head_that_drips_ends_the_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.3)
    reader, writer = await server.connect()
    writer.write(request()[:-2])
    with suppress(ConnectionError):
        async with asyncio.timeout(WITHIN_S):
            while not reader.at_eof():
                writer.write(b"a: b\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
    assert reader.at_eof() or writer.is_closing() or reader.exception()


async def test_an_answered_request_does_not_end_its_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.05)
    reader, writer = await server.connect()
    for _ in range(3):
        writer.write(request(body=b"a"))
        assert b"200 OK" in await reader.readuntil(b"}")
        await asyncio.sleep(0.1)  # longer than a head may take: now it is keep-alive's time
    writer.close()


async def test_where_there_are_too_many_connections_the_one_idle_for_longest_makes_room(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 2)
    first, second = await server.connect(), await server.connect()
    for reader, writer in (first, second):
        writer.write(request(body=b"a"))
        assert b"200 OK" in await reader.readuntil(b"}")
    assert (await server.answer(request(body=b"a")))[0] == 200
    assert await first[0].read() == b""  # ended
    second[1].write(request(body=b"a"))
    assert b"200 OK" in await second[0].readuntil(b"}")
    second[1].close()


async def test_where_none_is_idle_a_new_connection_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 2)
    busy = [await server.connect() for _ in range(2)]
    for _, writer in busy:
        writer.write(request(body=b"abc")[:-1])
    while len([one for one in server.uvicorn.server_state.connections if one.cycle]) < 2:
        await asyncio.sleep(0.01)
    assert await server.answer(request(body=b"a")) == (0, None)
    for reader, writer in busy:
        writer.write(b"c")
        assert b"200 OK" in await reader.readuntil(b"}")
        writer.close()


async def test_a_body_that_drips_behind_its_answer_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.3)
    reader, writer = await server.connect()
    writer.write(request(b"n: " + b"v" * 20_000).replace(b"Content-Length: 0", b"Content-Length: 99999"))
    assert b"431" in await reader.readuntil(b"}}")
    with suppress(ConnectionError):
        async with asyncio.timeout(WITHIN_S):
            while not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)


async def test_a_second_head_has_the_time_of_the_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.1)
    reader, writer = await server.connect()
    writer.write(request(body=b"a") + b"GET /v1/he")
    async with asyncio.timeout(WITHIN_S):
        assert (await reader.read()).count(b"200 OK") == 1


async def test_a_request_that_offers_another_protocol_keeps_its_body(server: Server) -> None:
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    assert await server.answer(request(*offer, body=b"all of it")) == (200, {"body": "all of it", "method": "POST"})
    socket = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"n: " + b"v" * 15_000)
    assert (await server.answer(request(*socket, body=b"a")))[0] == 200


async def test_a_connection_ends_whose_body_is_not_worth_reading(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_guard, "MAX_DRAINED_BYTES", 2 * MAX_BODY)
    reader, writer = await server.connect()
    writer.write(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
    writer.write(b"x" * (2 * MAX_BODY))
    async with asyncio.timeout(WITHIN_S / 2):  # long before the bound on the rest of a body
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"does not generate videos" in answer
    writer.close()
