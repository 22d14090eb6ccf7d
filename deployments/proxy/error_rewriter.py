"""Errors of Serve, which are plain text that quotes exceptions, and of frameworks: callers get ours instead."""

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from deployments.error_responses import respond, status_of
from deployments.errors import NotFound, TooLarge
from models.errors import DarkroomError, InvalidRequest, Unavailable

PREFIX = "/v1"  # of the application whose routes `respond` knows
REPLACEMENTS: dict[int, DarkroomError] = {  # for the errors of Serve, Gradio and Starlette
    400: InvalidRequest("The request cannot be read."),
    404: NotFound("There is no such path."),
    405: InvalidRequest("This path does not take the method."),
    413: TooLarge("The body is larger than is read here."),
    503: Unavailable("No replica can take the request now."),
}
SERVE_NOT_FOUND = b"Path '"  # the beginning of Serve's own 404
FRAMEWORK_ERRORS = (b'{"detail":"Not Found"}', b'{"detail":"Method Not Allowed"}')  # of paths that no route takes
DEFAULT_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'self'",  # a click in another site's frame would act for its user
    "X-Content-Type-Options": "nosniff",
}


class ErrorRewriter:
    """The answer to one request: passed on with its id and `DEFAULT_HEADERS`, an error that is not ours replaced."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._held: Message | None = None  # the start of an error, until its body shows whose it is
        self._is_replaced = False
        self.started = False

    async def send(self, message: Message) -> None:
        """Send a message. Hold back the start of an error that may be another's, and replace it and its body if so."""
        if message["type"] == "http.response.start":
            self.started = True
            if _may_be_another(message):
                self._held = message
            else:
                await self._send_start(message)
        elif self._held is not None:
            start, self._held = self._held, None
            body = message.get("body", b"")
            if _is_plain(start) or body in FRAMEWORK_ERRORS:
                self._is_replaced = True
                await self._replace(start, body)
            else:
                await self._send_start(start)
                await self._send(message)
        elif not self._is_replaced:
            await self._send(message)

    async def _send_start(self, message: Message) -> None:
        self._complete(MutableHeaders(scope=message))
        await self._send(message)

    async def refuse(self, error: DarkroomError) -> None:
        """Answer with an error, and end the connection, because not all of the body was read."""
        await self._respond(error, status_of(error), {"connection": "close"})

    async def _replace(self, start: Message, body: bytes) -> None:
        status, allow = start["status"], Headers(scope=start).get("allow")
        if status == 404 and body.startswith(SERVE_NOT_FOUND):  # it has no application for the path, or not yet
            error: DarkroomError = Unavailable("The service is starting or stopping. Try again soon.")
            await self._respond(error, status_of(error), {})
        else:
            kept = {"allow": allow} if allow else {}
            await self._respond(REPLACEMENTS.get(status, DarkroomError()), status, kept)

    async def _respond(self, error: DarkroomError, status: int, headers: Mapping[str, str]) -> None:
        answer = respond(error, self._scope["path"].removeprefix(PREFIX))
        answer.status_code = status
        answer.headers.update(headers)
        self._complete(answer.headers)
        await answer(self._scope, self._receive, self._send)

    def _complete(self, headers: MutableHeaders) -> None:
        for name, value in DEFAULT_HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("x-request-id", Headers(scope=self._scope)["x-request-id"])


def _may_be_another(start: Message) -> bool:
    """Return whether a response that starts so may be an error in another shape than ours."""
    return _is_plain(start) or (start["status"] in (404, 405) and _content_type(start) == "application/json")


def _is_plain(start: Message) -> bool:
    return start["status"] >= 400 and _content_type(start).startswith("text/plain")


def _content_type(start: Message) -> str:
    return Headers(scope=start).get("content-type", "")
