"""Of Gradio's many routes, those that this page uses, and how much each may be sent."""

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.error_responses import respond
from deployments.errors import NotFound
from gradio_ingress.uploads import MAX_UPLOAD, UPLOAD
from models.errors import DarkroomError, Unavailable

API = "/v1"  # where the other application is
PREFIX = "/gradio_api/"
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

    Gradio serves them whether they are used or not, and most of its advisories were about them. The API's paths are
    answered 503. A body of more than `MAX_EVENT` bytes, or an upload's of more than `MAX_UPLOAD_BODY`, is answered 413.
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
        if (refusal := _refusal(path)) is not None:
            await respond(refusal, path.removeprefix(API))(scope, receive, send)
            return
        await (self._uploads if path == UPLOAD else self._events)(scope, receive, send)


def _refusal(path: str) -> DarkroomError | None:
    """Return why a path is not answered here. The API's come here only while Serve has no API."""
    if path == API or path.startswith(f"{API}/"):
        return Unavailable("The API is starting or stopping. Try again soon.")
    return None if _used(path) else NotFound("There is no such path.")


def _used(path: str) -> bool:
    """Whether the page asks for this. Of files, only those on this machine that Gradio lets it see."""
    if not path.startswith(PREFIX):
        return True
    asked = path.removeprefix(PREFIX)
    return asked.partition("/")[0] in USED or (asked.startswith("file=") and not asked.lower().startswith("file=http"))
