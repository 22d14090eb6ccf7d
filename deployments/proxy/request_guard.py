"""What Serve's HTTP proxy does before a request occupies a replica, for every application behind it.

Pure ASGI and small, because all traffic passes here.
"""

import asyncio
import logging
import re
import secrets
from collections import deque
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.limits import MAX_BODY
from deployments.config import MAX_UPLOAD
from deployments.error_responses import respond
from deployments.errors import HeadersTooLarge, NotFound, RequestTimeout
from deployments.foreign_routes import why_missing
from deployments.proxy.error_rewriter import PREFIX, ErrorRewriter
from models.errors import DarkroomError, InvalidRequest, Unavailable

BODY_TIMEOUT_S = 30.0  # for its first `MAX_BODY` bytes; uvicorn has no timeout
UPLOAD_TIMEOUT_S = 600.0  # for the whole body: two files of `MAX_UPLOAD` at 1 Mbit/s
MAX_HELD_BYTES = 256 * 2**20  # of all bodies at a time: Serve's proxy keeps what is passed on until a replica takes it
MAX_DRAINED_BYTES = MAX_UPLOAD  # of a body that nobody wants
MAX_HEADERS = 16 * 1024  # bytes, as they are sent
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # it goes into logs
STRIPPED_HEADERS = (
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
)  # Serve obeys anybody's

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


class RequestGuard:
    """Removes the headers that only Serve may set, gives each request an id, and waits for the start of the body.

    Path, query and headers of more than `MAX_HEADERS` bytes are answered 431. A body that takes longer than
    `BODY_TIMEOUT_S` or `UPLOAD_TIMEOUT_S` is answered 408. Paths of other services are answered 404 with the reason,
    after a body of up to `MAX_DRAINED_BYTES`. Errors of Serve and of frameworks pass through `ErrorRewriter`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, once the start of its body has arrived."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        size = len(scope["path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + len(": \r\n") for name, value in headers.raw)
        for name in STRIPPED_HEADERS:
            del headers[name]
        if not REQUEST_ID.fullmatch(headers.get("x-request-id", "")):
            headers["x-request-id"] = secrets.token_hex(16)
        body, answer = _Body(receive, self._hold), ErrorRewriter(scope, receive, send)
        try:
            if size > MAX_HEADERS:
                raise HeadersTooLarge(f"Path, query and headers must be at most {MAX_HEADERS} bytes in all.")
            if not scope["path"].startswith("/"):
                raise InvalidRequest("The request's target must be a path that begins with /.")
            await body.begin()
            if (reason := why_missing(scope["path"])) is not None:
                response = respond(NotFound(reason), scope["path"].removeprefix(PREFIX))
                if not await body.drain():
                    response.headers["Connection"] = "close"
                await response(scope, receive, answer.send)
                return
            await self._app(scope, body.receive, answer.send)
            if not answer.started:
                raise body.problem or Unavailable("The service was interrupted. Try again soon.")
        except DarkroomError as error:
            await answer.refuse(error)
        except Exception:
            if answer.started:
                raise
            logger.exception("the proxy failed")
            await answer.refuse(Unavailable("The service was interrupted. Try again soon."))
        finally:
            self._held -= body.held

    def _hold(self, length: int) -> None:
        self._held += length
        if self._held > MAX_HELD_BYTES:
            raise Unavailable("Too many bodies are being read. Try again soon.")


class _Body:
    """A request's body: its first `MAX_BODY` bytes are awaited and held, the rest is passed on as it arrives."""

    def __init__(self, receive: Receive, hold: Callable[[int], None]) -> None:
        self._receive, self._hold = receive, hold
        self._messages = deque[Message]()
        self._is_whole = False
        self._until = asyncio.get_running_loop().time() + UPLOAD_TIMEOUT_S
        self.held = 0  # bytes
        self.problem: DarkroomError | None = None  # why it broke off

    async def begin(self) -> None:
        """Read a body to its end, or until it exceeds `MAX_BODY`: the application refuses a body that is too large.

        Raises:
            RequestTimeout: it takes too long.
            Unavailable: all bodies together are too large.
        """
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while not self._is_whole and self.held <= MAX_BODY:
                    self._messages.append(await self._next_held())
        except TimeoutError:
            raise RequestTimeout(f"The body must arrive within {BODY_TIMEOUT_S:g} s.") from None

    async def receive(self) -> Message:
        """Return the next part; after the end, the server's messages.

        A disconnect, with the `problem`, if a part does not arrive in time or all bodies together are too large.
        """
        if self._messages:
            return self._messages.popleft()
        if self._is_whole:
            return await self._receive()
        return await self._within_time(self._next_held)

    async def drain(self) -> bool:
        """Read what is left, and return whether that was all: beyond `MAX_DRAINED_BYTES` it is not worth its traffic.

        A client that still sends when the connection closes may not see its answer.
        """
        drained = self.held
        self._messages.clear()
        while not self._is_whole and drained < MAX_DRAINED_BYTES:
            message = await self._within_time(self._next)
            if message["type"] == "http.disconnect":
                break
            drained += len(message.get("body", b""))
        return self._is_whole

    async def _within_time(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout_at(self._until):
                return await receive()
        except TimeoutError:
            self.problem = RequestTimeout(f"An upload must arrive within {UPLOAD_TIMEOUT_S:g} s.")
        except Unavailable as error:
            self.problem = error
        return {"type": "http.disconnect"}

    async def _next_held(self) -> Message:
        message = await self._next()
        self.held += len(message.get("body", b""))
        self._hold(len(message.get("body", b"")))
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        self._is_whole = not message.get("more_body", False)
        return message
