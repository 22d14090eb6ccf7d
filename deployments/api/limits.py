"""Limits that hold before anything is read. Pure ASGI: anything else would buffer streams."""

from collections.abc import Mapping
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.error_responses import path_of, respond
from deployments.errors import TooLarge

MAX_BODY = 1024 * 1024  # bytes, on most paths
FORM_BYTES = 256 * 1024  # that a multipart form may add to its files


class BodyLimit:
    """Answers 413 to a body of more than `MAX_BODY` bytes, whatever its headers say.

    `limits` has another number of bytes for some paths, and for all below those that end with a slash.

    FastAPI has a limit of its own, which answers in plain text.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int] = {}) -> None:
        self._app = app
        self._limits = limits
        self._folders = [path for path in limits if path.endswith("/")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what it sends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read, path = 0, path_of(scope)
        limit = self._limits.get(
            path, next((self._limits[each] for each in self._folders if path.startswith(each)), MAX_BODY)
        )

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise TooLarge
            return message

        async def unless_too_large(message: Message) -> None:
            if read <= limit:
                await send(message)

        with suppress(TooLarge):
            await self._app(scope, counted, unless_too_large)
        if read > limit:  # whoever was reading made an answer of its own of the error
            await respond(TooLarge(f"The body must be at most {limit} bytes."), path)(scope, receive, send)
