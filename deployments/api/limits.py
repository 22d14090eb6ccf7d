"""Limits that hold before anything is read. Pure ASGI: anything else would buffer streams."""

from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.error_responses import path_of, respond
from deployments.errors import TooLarge

MAX_BODY = 1024 * 1024  # bytes


class BodyLimit:
    """Answers 413 to a body of more than `MAX_BODY` bytes, whatever its headers say.

    FastAPI has a limit of its own, which answers in plain text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what it sends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY:
                raise TooLarge
            return message

        async def unless_too_large(message: Message) -> None:
            if read <= MAX_BODY:
                await send(message)

        with suppress(TooLarge):
            await self._app(scope, counted, unless_too_large)
        if read > MAX_BODY:  # whoever was reading made an answer of its own of the error
            await respond(TooLarge(f"The body must be at most {MAX_BODY} bytes."), path_of(scope))(scope, receive, send)
