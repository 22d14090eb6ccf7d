"""JSON bodies are UTF-8, as RFC 8259 has it. Python's own parser would also take UTF-16 and UTF-32."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class Utf8Request(Request):
    """A request whose JSON is UTF-8, with or without a byte order mark."""

    async def json(self) -> Any:
        """Return the body as JSON. Raises: UnicodeDecodeError, JSONDecodeError."""
        body = await self.body()
        if b"\0" in body[:2]:  # the first two characters of JSON are ASCII: UTF-16 or UTF-32
            raise UnicodeDecodeError("utf-8", body[:2], 0, 2, "a NUL")
        return json.loads(body.decode("utf-8-sig"))


class Utf8Route(APIRoute):
    """A route whose body is read so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's handler."""
        handle = super().get_route_handler()

        async def handle_utf8(request: Request) -> Response:
            return await handle(Utf8Request(request.scope, request.receive))

        return handle_utf8
