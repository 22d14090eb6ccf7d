"""JSON bodies are UTF-8, as RFC 8259 has it. Python's own parser would also take UTF-16 and UTF-32."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from deployments.api.limits import MAX_BODY
from deployments.errors import TooLarge

IMAGE = re.compile(rb'"inputs"\s*:\s*("[A-Za-z0-9+/=,:;*.\\-]*")')  # in base64, or as a data URL; / may be escaped


class Utf8Request(Request):
    """A request whose JSON is UTF-8, with or without a byte order mark."""

    async def json(self) -> Any:
        """Return the body as JSON. Raises: UnicodeDecodeError, JSONDecodeError."""
        return _parsed(await self.body())


class ImageJsonRequest(Utf8Request):
    """A request whose JSON may have an image as its `inputs`, and is as small as any other without it."""

    async def json(self) -> Any:
        """Return the body as JSON. Raises: UnicodeDecodeError, JSONDecodeError, TooLarge."""
        body = await self.body()
        if len(body) <= MAX_BODY:
            return _parsed(body)
        image = IMAGE.search(body)
        rest = body if image is None else body[: image.start(1)] + b'""' + body[image.end(1) :]
        if image is None or len(rest) > MAX_BODY:
            raise TooLarge(f"The body must be at most {MAX_BODY} bytes, beside an image in base64 as inputs.")
        parsed = _parsed(rest)
        if isinstance(parsed, dict) and parsed.get("inputs") == "":
            parsed["inputs"] = json.loads(image[1])
        return parsed


def _parsed(body: bytes) -> Any:
    if b"\0" in body[:2]:  # the first two characters of JSON are ASCII: UTF-16 or UTF-32
        raise UnicodeDecodeError("utf-8", body[:2], 0, 2, "a NUL")
    return json.loads(body.decode("utf-8-sig"))


class Utf8Route(APIRoute):
    """A route whose body is read so."""

    request_class: ClassVar[type[Request]] = Utf8Request

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's handler."""
        handle = super().get_route_handler()

        async def handle_utf8(request: Request) -> Response:
            return await handle(self.request_class(request.scope, request.receive))

        return handle_utf8


class ImageJsonRoute(Utf8Route):
    """A route whose body may have an image as its `inputs`."""

    request_class = ImageJsonRequest
