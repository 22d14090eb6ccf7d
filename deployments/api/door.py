"""What Serve's HTTP proxy does before a request takes a replica's place, for every application behind it.

Pure ASGI, and small: all traffic passes here.
"""

import asyncio
import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.errors import respond
from deployments.api.limits import MAX_BODY
from models.errors import (
    DarkroomError,
    HeadersTooLarge,
    InvalidRequest,
    NotFound,
    RequestTimeout,
    TooLarge,
    Unavailable,
)

BODY_WITHIN_S = 30.0  # uvicorn would wait for ever
MAX_HEADERS = 16 * 1024  # bytes, as they are sent; uvicorn takes any number
PREFIX = "/v1"  # of the application whose routes `respond` knows
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # it goes into logs
OBEYED = ("x-request-timeout-seconds", "x-request-disconnect-disabled")  # by Serve, whoever sends them
IN_OUR_WORDS: dict[int, DarkroomError] = {  # Serve's errors, and those of Gradio's that are plain text
    400: InvalidRequest("The request cannot be read."),
    404: NotFound("There is no such path."),
    413: TooLarge("The body is larger than is read here."),
    503: Unavailable("No replica can take the request now."),
}


class Door:
    """Takes off what only Serve itself may say, waits for the body, and words Serve's own errors as ours.

    Headers of more than `MAX_HEADERS` bytes are answered 431, and a body that takes longer than `BODY_WITHIN_S` is
    answered 408. Serve answers in plain text, with what an exception said: that stays here, and its log has it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, once all of it is here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        size = sum(len(name) + len(value) + len(": \r\n") for name, value in headers.raw)
        for name in OBEYED:
            del headers[name]
        if not REQUEST_ID.fullmatch(headers.get("x-request-id", "")):
            headers["x-request-id"] = secrets.token_hex(16)
        try:
            if size > MAX_HEADERS:
                raise HeadersTooLarge(f"The headers must be at most {MAX_HEADERS} bytes in all.")
            begun = await _begun(receive)
        except (HeadersTooLarge, RequestTimeout) as error:
            refusal = respond(error, scope["path"].removeprefix(PREFIX))
            refusal.headers["x-request-id"] = headers["x-request-id"]
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, send)
            return
        await self._app(scope, _replayed(begun, receive), _Reworded(scope, receive, send))


async def _begun(receive: Receive) -> list[Message]:
    """Read a body to its end, or as far as it may go: beyond, whoever it is for refuses it. Raises: RequestTimeout."""
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            messages, read = [await receive()], 0
            while messages[-1].get("more_body") and read <= MAX_BODY:
                read += len(messages[-1].get("body", b""))
                messages.append(await receive())
            return messages
    except TimeoutError:
        raise RequestTimeout(f"The body must arrive within {BODY_WITHIN_S:g} s.") from None


def _replayed(messages: list[Message], receive: Receive) -> Receive:
    left = iter(messages)

    async def replay() -> Message:
        for message in left:
            return message
        return await receive()

    return replay


class _Reworded:
    """Sends an answer on; in the place of an error in plain text, an error of ours."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._silent = False

    async def __call__(self, message: Message) -> None:
        """Send a message, or drop it."""
        if message["type"] == "http.response.start" and message["status"] >= 400:
            headers = MutableHeaders(raw=list(message["headers"]))
            if headers.get("content-type", "").startswith("text/plain"):
                self._silent = True
                error = IN_OUR_WORDS.get(message["status"], DarkroomError())
                ours = respond(error, self._scope["path"].removeprefix(PREFIX))
                ours.status_code = message["status"]
                if "x-request-id" in headers:
                    ours.headers["x-request-id"] = headers["x-request-id"]
                await ours(self._scope, self._receive, self._send)
        if not self._silent:
            await self._send(message)
