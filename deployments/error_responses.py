"""The answer to an error, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}; in Hugging Face's on its
routes. For both applications and the proxy in front of them."""

from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Scope

from deployments.errors import QueueFull, Unauthorized
from models.errors import DarkroomError, Unavailable

HUGGING_FACE = "/hf/"  # where its routes begin
UNAVAILABLE_FOR_S = 5  # as far as a 503 can know
STATUSES = {  # of an error's code; 500 where it is none of these
    "invalid_value": 400,
    "invalid_image": 400,
    "image_refused": 400,
    "unsupported_sampler": 400,
    "unusable_adapter": 400,
    "invalid_api_key": 401,
    "forbidden": 403,
    "model_not_found": 404,
    "input_not_found": 404,
    "not_found": 404,
    "request_timeout": 408,
    "job_ended": 409,
    "input_in_use": 409,
    "adapter_changed": 409,
    "gone": 410,
    "body_too_large": 413,
    "idempotency_key_reused": 422,
    "queue_full": 429,
    "owner_queue_full": 429,
    "quota_exceeded": 429,
    "input_quota_exceeded": 429,
    "too_many_requests": 429,
    "headers_too_large": 431,
    "unavailable": 503,
    "no_replica": 503,
    "store_unavailable": 503,
    "superseded": 503,
    "replica_lost": 503,
    "weights_mismatch": 503,
    "deadline_exceeded": 504,
    "storage_full": 507,
}


def path_of(scope: Scope) -> str:
    """Return a request's path within the application."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def status_of(error: DarkroomError) -> int:
    """Return the HTTP status of an error."""
    return STATUSES.get(error.code, 500)


def is_server_error(code: str) -> bool:
    """Return whether an error with this code is the service's own fault: its status is 500 or above."""
    return STATUSES.get(code, 500) >= 500


def error_body(error: DarkroomError, path: str = "") -> dict[str, Any]:
    """Return the body for an error on a route."""
    return body_of(error.message, status_of(error), error.param, error.code, path)


def respond(error: DarkroomError, path: str = "") -> JSONResponse:
    """Return the answer for an error on a route."""
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(UNAVAILABLE_FOR_S)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error, path), status_of(error), headers)


def body_of(message: str, status: int, param: str | None, code: str, path: str) -> dict[str, Any]:
    """Return the body for an error on a route, by what it says."""
    if path.startswith(HUGGING_FACE):
        return {"error": message}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
