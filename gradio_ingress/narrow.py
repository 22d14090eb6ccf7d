"""Of Gradio's many routes, those that this page uses."""

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/gradio_api/"
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

    Gradio serves them whether they are used or not, and most of its advisories were about them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] == "http" and not _used(scope["path"].removeprefix(scope.get("root_path", ""))):
            await PlainTextResponse("There is no such page.", 404)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _used(path: str) -> bool:
    """Whether the page asks for this. Of files, only those on this machine that Gradio lets it see."""
    if not path.startswith(PREFIX):
        return True
    asked = path.removeprefix(PREFIX)
    return asked.partition("/")[0] in USED or (asked.startswith("file=") and not asked.lower().startswith("file=http"))
