"""Of Gradio's many routes, those that this page uses, and how much each may be sent."""

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/gradio_api/"
UPLOAD = f"{PREFIX}upload"
MAX_UPLOAD = 32 * 2**20  # bytes of an image whose settings are read
MAX_UPLOAD_BODY = MAX_UPLOAD + 2**20  # and of its envelope
MAX_EVENT = 256 * 1024  # bytes of JSON, which is read on the event loop: a megabyte can take half a second
USED = {
    "app_id",
    "call",
    "cancel",
    "heartbeat",
    "info",
    "login_check",
    "queue",
    "reset",
    "startup-events",
    "upload",
    "upload_progress",
}


class Narrow:
    """Answers 404 to what no page of pictures needs: proxying, fetching addresses, recordings, histories, builders.

    Gradio serves them whether they are used or not, and most of its advisories were about them. A body of more than
    `MAX_EVENT` bytes, or an upload's of more than `MAX_UPLOAD_BODY`, is answered 413.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._events = RequestBodyLimitMiddleware(app, MAX_EVENT)
        self._uploads = RequestBodyLimitMiddleware(app, MAX_UPLOAD_BODY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        app = self._uploads if path == UPLOAD else self._events
        await (app if _used(path) else PlainTextResponse("There is no such page.", 404))(scope, receive, send)


def _used(path: str) -> bool:
    """Whether the page asks for this. Of files, only those on this machine that Gradio lets it see."""
    if not path.startswith(PREFIX):
        return True
    asked = path.removeprefix(PREFIX)
    return asked.partition("/")[0] in USED or (asked.startswith("file=") and not asked.lower().startswith("file=http"))
