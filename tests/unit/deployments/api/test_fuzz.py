"""The API answers anything as its OpenAPI says that it does."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.fuzz.run import fuzz
from tests.unit.deployments.api.caller import Api


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The API over fakes, on a loop of its own."""
    started: Future[uvicorn.Server] = Future()

    async def serve() -> None:
        api = Api(tmp_path, max_waiting=10_000).app

        async def under_v1(scope: Scope, receive: Receive, send: Send) -> None:
            """Hand a request on as Serve's proxy does. A `Mount` would not take a path with a newline in it."""
            await api({**scope, "root_path": "/v1"}, receive, send)

        server = uvicorn.Server(uvicorn.Config(under_v1, log_level="critical"))
        started.set_result(server)
        await server.serve(sockets=[listener])

    # With its protocol: asyncio sets TCP_NODELAY on no other, and a response of two packets would take 40 ms more.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who comes before the server does waits, and is not refused
        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = started.result()
        server.should_exit = server.force_exit = True
        thread.join()


def test_500_requests_that_nobody_would_write_are_answered_as_promised(address: str) -> None:
    found = fuzz(address, at_most=8, seed=5)
    assert found.clean, found.report[-20_000:]
    assert found.cases >= 500, found.report[-2000:]
