"""Serve's errors are plain text that quotes exceptions. Callers get ours instead; Serve logs the exception."""

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from deployments.error_responses import respond, status_of
from deployments.errors import NotFound, TooLarge
from models.errors import DarkroomError, InvalidRequest, Unavailable

PREFIX = "/v1"  # of the application whose routes `respond` knows
REPLACEMENTS: dict[int, DarkroomError] = {  # for the plain-text errors of Serve and Gradio
    400: InvalidRequest("The request cannot be read."),
    404: NotFound("There is no such path."),
    405: InvalidRequest("This path does not take the method."),
    413: TooLarge("The body is larger than is read here."),
    503: Unavailable("No replica can take the request now."),
}
SERVE_NOT_FOUND = b"Path '"  # the beginning of Serve's own 404
DEFAULT_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'self'",  # a click in another site's frame would act for its user
    "X-Content-Type-Options": "nosniff",
}


class ErrorRewriter:
    """The answer to one request: passed on with its id and `DEFAULT_HEADERS`, a plain-text error replaced by ours."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._plain_status: int | None = None  # of an error in plain text
        self._is_replaced = False
        self.started = False

    async def send(self, message: Message) -> None:
        """Send a message. Of an error in plain text, keep the status and replace the first part of the body."""
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            if message["status"] >= 400 and headers.get("content-type", "").startswith("text/plain"):
                self._plain_status = message["status"]
                return
            self._complete(headers)
        elif self._plain_status is not None:
            await self._replace(self._plain_status, message.get("body", b""))
            return
        await self._send(message)

    async def refuse(self, error: DarkroomError) -> None:
        """Answer with an error, and end the connection, because not all of the body was read."""
        await self._respond(error, status_of(error), {"connection": "close"})

    async def _replace(self, status: int, body: bytes) -> None:
        if self._is_replaced:
            return
        self._is_replaced = True
        if status == 404 and body.startswith(SERVE_NOT_FOUND):  # it has no application for the path, or not yet
            error: DarkroomError = Unavailable("The service is starting or stopping. Try again soon.")
            await self._respond(error, status_of(error), {})
        else:
            await self._respond(REPLACEMENTS.get(status, DarkroomError()), status, {})

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
