"""The answer to an error, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}; in Hugging Face's on its
routes. For both applications and the proxy in front of them."""

from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Scope

from models.errors import DarkroomError, QueueFull, Unauthorized, Unavailable

HUGGING_FACE = "/hf/"  # where its routes begin
UNAVAILABLE_FOR_S = 5  # as far as a 503 can know


def path_of(scope: Scope) -> str:
    """Return a request's path within the application."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def error_body(error: DarkroomError, path: str = "") -> dict[str, Any]:
    """Return the body for an error on a route."""
    return body_of(error.message, error.status, error.param, error.code, path)


def respond(error: DarkroomError, path: str = "") -> JSONResponse:
    """Return the answer for an error on a route."""
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(UNAVAILABLE_FOR_S)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error, path), error.status, headers)


def body_of(message: str, status: int, param: str | None, code: str, path: str) -> dict[str, Any]:
    """Return the body for an error on a route, by what it says."""
    if path.startswith(HUGGING_FACE):
        return {"error": message}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
