"""Every error in one shape, OpenAI's: {"error": {"message", "type", "param", "code"}}."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from deployments.schema import first_problem
from models.errors import DarkroomError, InvalidRequest, QueueFull

logger = logging.getLogger(__name__)


def error_body(error: DarkroomError) -> dict[str, object]:
    """Return the body for an error."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def respond(error: DarkroomError) -> JSONResponse:
    """Return the answer for an error."""
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, QueueFull) else None
    return JSONResponse(error_body(error), error.status, headers)


def invalid(errors: Sequence[Any], content_type: str | None = None) -> InvalidRequest:
    """Return our error for pydantic's, naming the first field that is wrong and its bound."""
    name, message = first_problem(errors)
    if name == "body" and content_type is not None and "json" not in content_type:
        message = f"Content-Type must be application/json, got {content_type[:100] or 'none'}."
        return InvalidRequest(message, "Content-Type")
    if errors[0]["type"] == "json_invalid":
        reason = errors[0].get("ctx", {}).get("error", "")
        return InvalidRequest(f"The body is not valid JSON: {reason}.", None)
    return InvalidRequest(message, name)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` in one shape; what is unexpected is logged, and only logged."""

    @app.exception_handler(DarkroomError)
    async def ours(_: Request, error: DarkroomError) -> JSONResponse:
        return respond(error)

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> JSONResponse:
        return respond(invalid(list(error.errors()), request.headers.get("content-type", "")))

    @app.exception_handler(ValidationError)
    async def unfit_after_translation(_: Request, error: ValidationError) -> JSONResponse:
        return respond(invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        kind = "invalid_request_error" if error.status_code < 500 else "server_error"
        body = {"message": str(error.detail), "type": kind, "param": None, "code": f"http_{error.status_code}"}
        return JSONResponse({"error": body}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error", exc_info=error)
        return respond(DarkroomError())
