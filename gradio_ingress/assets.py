"""The files of Gradio's front end, sent by Serve's proxy itself.

The page asks for seventy of them, small ones mostly, and through a replica each costs seven times as much.
They are the same for everybody, and neither secret nor ours.
"""

import os
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.error_responses import respond
from deployments.errors import NotFound

FRONT_END = "templates/frontend"  # in Gradio's package, which is found and not imported
MAX_PACKED = 2**20  # bytes; 31 MB took 0.9 s of the proxy
FOREVER = "public, max-age=31536000, immutable"


class Assets:
    """Answers what is asked for below `/assets` and `/static`, and passes everything else on.

    What is large is sent as it is: the page asks for none of it, and packing it would hold the proxy for a second.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._files = Starlette(
            routes=[
                Mount("/assets", Hashed(packages=[("gradio", f"{FRONT_END}/assets")])),
                Mount("/static", Files(packages=[("gradio", f"{FRONT_END}/static")])),
            ],
            middleware=[Middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)],  # 9 takes thrice as long
            exception_handlers={404: _not_found},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        asked = scope["type"] == "http" and scope["path"].startswith(("/assets/", "/static/"))
        await (self._files if asked else self._app)(scope, receive, send)


def _not_found(request: Request, error: Exception) -> Response:
    return respond(NotFound("There is no such file."))


class Files(StaticFiles):
    """Files of which the large ones are not packed."""

    def file_response(self, full_path: Any, stat_result: os.stat_result, *given: Any, **named: Any) -> Response:
        """Return the file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, *given, **named)
        if stat_result.st_size > MAX_PACKED:
            response.headers["Content-Encoding"] = "identity"  # the middleware packs what says nothing
        return response


class Hashed(Files):
    """Files whose names hold a hash of what they contain: a browser need not ask for one again."""

    def file_response(self, *given: Any, **named: Any) -> Response:
        """Return the file, or that it has not changed, with how long that is true."""
        response = super().file_response(*given, **named)
        response.headers["Cache-Control"] = FOREVER
        return response
