"""What Serve's HTTP proxy does before a request takes a replica's place, for every application behind it.

Pure ASGI, and small: all traffic passes here.
"""

import asyncio
import logging
import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.limits import MAX_BODY
from deployments.error_responses import respond, status_of
from deployments.errors import HeadersTooLarge, NotFound, RequestTimeout, TooLarge
from models.errors import DarkroomError, InvalidRequest, Unavailable

BODY_WITHIN_S = 30.0  # its first `MAX_BODY` bytes; uvicorn would wait for ever
UPLOAD_WITHIN_S = 300.0  # to its end: 32 MiB at 1 Mbit/s
MAX_HELD = 256 * 2**20  # bytes of all the bodies that are here
MAX_HEADERS = 16 * 1024  # bytes, as they are sent
PREFIX = "/v1"  # of the application whose routes `respond` knows
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # it goes into logs
OBEYED = ("x-request-timeout-seconds", "x-request-disconnect-disabled")  # by Serve, whoever sends them
IN_OUR_WORDS: dict[int, DarkroomError] = {  # Serve's errors, and those of Gradio's that are plain text
    400: InvalidRequest("The request cannot be read."),
    404: NotFound("There is no such path."),
    405: InvalidRequest("This path does not take the method."),
    413: TooLarge("The body is larger than is read here."),
    503: Unavailable("No replica can take the request now."),
}

SERVES_NOT_FOUND = b"Path '"  # what Serve's own 404 begins with
ON_EVERY_ANSWER = {  # unless it says otherwise
    "Content-Security-Policy": "frame-ancestors 'self'",  # a click in a frame would be the page's own
    "X-Content-Type-Options": "nosniff",
}

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


class Door:
    """Takes off what only Serve itself may say, waits for the body, and words Serve's own errors as ours.

    Path, query and headers of more than `MAX_HEADERS` bytes are answered 431. A body that takes longer than
    `BODY_WITHIN_S` or `UPLOAD_WITHIN_S` is answered 408. Serve answers in plain text, with what an exception said: that
    stays here, and its log has it. Every answer has the request's id, and is kept out of other sites' frames.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, once its body is here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        size = len(scope["path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + len(": \r\n") for name, value in headers.raw)
        for name in OBEYED:
            del headers[name]
        if not REQUEST_ID.fullmatch(headers.get("x-request-id", "")):
            headers["x-request-id"] = secrets.token_hex(16)
        body, answer = _Body(receive, self._hold), _Answer(scope, receive, send)
        try:
            if size > MAX_HEADERS:
                raise HeadersTooLarge(f"Path, query and headers must be at most {MAX_HEADERS} bytes in all.")
            if not scope["path"].startswith("/"):
                raise InvalidRequest("The request's target must be a path that begins with /.")
            await body.begin()
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
        if self._held > MAX_HELD:
            raise Unavailable("Too many bodies are being read. Try again soon.")


class _Body:
    """A request's body: its first `MAX_BODY` bytes are waited for and held, the rest is passed on as it comes."""

    def __init__(self, receive: Receive, hold: Callable[[int], None]) -> None:
        self._receive, self._hold = receive, hold
        self._messages = deque[Message]()
        self._is_whole = False
        self._until = asyncio.get_running_loop().time() + UPLOAD_WITHIN_S
        self.held = 0  # bytes
        self.problem: RequestTimeout | None = None  # why it broke off

    async def begin(self) -> None:
        """Read a body to its end, or as far as it may go: beyond, whoever it is for refuses it.

        Raises:
            RequestTimeout: it takes too long.
            Unavailable: all bodies together are too large.
        """
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                while not self._is_whole and self.held <= MAX_BODY:
                    message = await self._next()
                    self.held += len(message.get("body", b""))
                    self._hold(len(message.get("body", b"")))
                    self._messages.append(message)
        except TimeoutError:
            raise RequestTimeout(f"The body must arrive within {BODY_WITHIN_S:g} s.") from None

    async def receive(self) -> Message:
        """Return the next part; a disconnect where it does not come in time; behind the end, what the server says."""
        if self._messages:
            return self._messages.popleft()
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                return await self._next()
        except TimeoutError:
            self.problem = RequestTimeout(f"An upload must arrive within {UPLOAD_WITHIN_S:g} s.")
            return {"type": "http.disconnect"}

    async def _next(self) -> Message:
        message = await self._receive()
        self._is_whole = not message.get("more_body", False)
        return message


class _Answer:
    """Sends an answer on; in the place of an error in plain text, an error of ours."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._plain_status: int | None = None  # of an error in plain text
        self._is_replaced = False
        self.started = False

    async def send(self, message: Message) -> None:
        """Send a message; of an error in plain text, keep the status and replace the first part."""
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            if message["status"] >= 400 and headers.get("content-type", "").startswith("text/plain"):
                self._plain_status = message["status"]
                return
            self._complete(headers)
        elif self._plain_status is not None:
            await self._replace(self._plain_status, message.get("body", b""))
            return
        await self._send(message)

    async def refuse(self, error: DarkroomError) -> None:
        """Answer with an error, and end the connection, as not all of the body was read."""
        await self._respond(error, status_of(error), {"connection": "close"})

    async def _replace(self, status: int, said: bytes) -> None:
        if self._is_replaced:
            return
        self._is_replaced = True
        if status == 404 and said.startswith(SERVES_NOT_FOUND):  # it has no application for the path, or not yet
            error: DarkroomError = Unavailable("The service is starting or stopping. Try again soon.")
            await self._respond(error, status_of(error), {})
        else:
            await self._respond(IN_OUR_WORDS.get(status, DarkroomError()), status, {})

    async def _respond(self, error: DarkroomError, status: int, headers: Mapping[str, str]) -> None:
        answer = respond(error, self._scope["path"].removeprefix(PREFIX))
        answer.status_code = status
        answer.headers.update(headers)
        self._complete(answer.headers)
        await answer(self._scope, self._receive, self._send)

    def _complete(self, headers: MutableHeaders) -> None:
        for name, value in ON_EVERY_ANSWER.items():
            headers.setdefault(name, value)
        headers.setdefault("x-request-id", Headers(scope=self._scope)["x-request-id"])
