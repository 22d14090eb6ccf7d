"""The routes of Gradio that this page uses; all others are closed. Also bounds on the size of request bodies."""

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.error_responses import respond
from deployments.errors import NotFound
from gradio_ingress.uploads import MAX_UPLOAD, UPLOAD
from models.errors import DarkroomError, Unavailable

API = "/v1"  # prefix of the other application
PREFIX = "/gradio_api/"
MAX_UPLOAD_BODY = MAX_UPLOAD + 2**20  # with its multipart envelope
MAX_EVENT = 256 * 1024  # bytes of JSON, parsed on the event loop: a megabyte can take half a second
ALLOWED = {
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


class RouteAllowlist:
    """Answers 404 to the routes that this page does not need: proxying, fetching URLs, recordings, histories, builders.

    Gradio serves them whether they are used or not, and most of its security advisories concern them. The API's paths
    are answered 503; a body of more than `MAX_EVENT` bytes, or an upload of more than `MAX_UPLOAD_BODY`, 413.
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
    """Return why a path is refused. Paths of the API arrive here only while Serve has no API."""
    if path == API or path.startswith(f"{API}/"):
        return Unavailable("The API is starting or stopping. Try again soon.")
    return None if _is_allowed(path) else NotFound("There is no such path.")


def _is_allowed(path: str) -> bool:
    """Whether the page needs a path. `file=` is allowed for local files only, which Gradio checks."""
    if not path.startswith(PREFIX):
        return True
    route = path.removeprefix(PREFIX)
    is_local_file = route.startswith("file=") and not route.lower().startswith("file=http")
    return route.partition("/")[0] in ALLOWED or is_local_file
