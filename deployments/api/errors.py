"""What FastAPI and pydantic make of errors, in the shapes of `error_responses`; and what OpenAPI says of them."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from deployments.api.auth import owner_of
from deployments.api.dialect import Dialect
from deployments.api.headers import allowance_headers
from deployments.dispatcher.client import DispatcherClient
from deployments.error_responses import body_of, path_of, respond
from deployments.errors import QueueFull, StoreUnavailable
from deployments.request_errors import is_out_of_bounds
from models.errors import DarkroomError, InvalidRequest
from models.model_card import find_card
from models.validation import first_problem

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

IMAGE_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8")  # PNG, JPEG, WebP, GIF
NO_SUCH_PATH = "There is no such path. The paths are listed at /v1/docs."
OF_EVERY_ROUTE = (401, 403, 429, 431, 500, 503)


class ErrorDetail(BaseModel):
    """What went wrong, in words that name the field and its bound."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error, as OpenAI words it."""

    error: ErrorDetail


class HFError(BaseModel):
    """An error, as Hugging Face words it."""

    error: str


SHAPES = (ErrorDetail, ErrorBody, HFError)


def documented(*statuses: int, shape: type[BaseModel] = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of the errors that a route has beside those of every route; `SHAPES` are known there."""
    words = {
        400: "A field is beyond its bound, or a query parameter is unknown: `param` names it. Or the body cannot be "
        "read, the sampler gives no image in so many steps (`unsupported_sampler`), the image that you sent cannot be "
        "used (`invalid_image`), or the operator refuses the image (`image_refused`).",
        401: "With keys on: no key, or not one of ours.",
        403: "Without keys: a host name that is not allowed, or a page of another site.",
        404: "There is no such thing, or it is somebody else's.",
        409: "It has ended already, a job needs it, or the file of an adapter has changed (`adapter_changed`).",
        410: "It was there; its result has expired.",
        413: "The body is larger than is read.",
        422: "The `Idempotency-Key` came with another request before.",
        429: "The queue is full, a key's caps are reached, your inputs take as much as they may, or too many of your "
        "requests are open: nothing was queued or stored. "
        "`Retry-After` says when to come back.",
        431: "The headers are larger than is read.",
        500: "It failed on our side.",
        503: "Nobody can answer now.",
        504: "The job's time was over before it was done.",
        507: "A picture or an input could not be stored.",
    }
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}}}
    described = sorted({*OF_EVERY_ROUTE, *statuses})
    return {status: {"content": content, "description": words[status]} for status in described}


def invalid(errors: Sequence[Any], content_type: str | None = None) -> InvalidRequest:
    """Return our error for pydantic's, naming the first field that is wrong and its bound."""
    name, message = first_problem(errors)
    if name == "body" and content_type is not None and "json" not in content_type:
        body = errors[0].get("input")
        is_image = content_type.startswith("image/") or (isinstance(body, bytes) and body.startswith(IMAGE_SIGNATURES))
        remedy = (
            ": POST /v1/inputs takes images as PNG, JPEG or WebP, and /v1/images/edits in a form" if is_image else ""
        )
        message = f"Content-Type must be application/json, got {content_type[:100] or 'none'}{remedy}."
        return InvalidRequest(message, "Content-Type")
    if errors[0]["type"] == "json_invalid":
        reason = errors[0].get("ctx", {}).get("error", "")
        return InvalidRequest(f"The body is not valid JSON: {reason}.", None)
    return InvalidRequest(message, name)


async def _by_model(
    problem: Any, request: Request, body: Any, client: DispatcherClient, dialect: Dialect
) -> InvalidRequest | None:
    """Return our error for one of pydantic's about a bound, by the model of the request; None if none is known."""
    fields = body if isinstance(body, dict) else {}
    model = request.path_params.get("model_id", fields.get("model"))
    with suppress(DarkroomError):  # no model is up: the schema's bound has to do
        card = find_card(await client.models(), model)
        if card is not None:
            nested = fields.get("parameters")
            sampler = dialect.sampler_of(nested if isinstance(nested, dict) else fields)
            return dialect.request_error(problem, card, sampler)
    return None


def add_error_handlers(app: FastAPI, client: DispatcherClient, dialects: Mapping[str, Dialect]) -> None:
    """Answer every error of `app` in one shape; what is unexpected is logged, and only logged.

    `dialects` have the dialect of the paths that begin so; others have the names of `GenerationRequest`.
    """

    @app.exception_handler(DarkroomError)
    async def ours(request: Request, error: DarkroomError) -> JSONResponse:
        if isinstance(error, StoreUnavailable):
            logger.error("%s", error.reason)
        response = respond(error, _path(request))
        if isinstance(error, QueueFull):
            response.headers.update(await allowance_headers(client, owner_of(request)))
        return response

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> JSONResponse:
        problems, path = list(error.errors()), _path(request)
        found = None
        if is_out_of_bounds(problems[0]):
            dialect = next((each for start, each in dialects.items() if path.startswith(start)), Dialect({}))
            found = await _by_model(problems[0], request, error.body, client, dialect)
        return respond(found or invalid(problems, request.headers.get("content-type", "")), path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # FastAPI's, for a body that no parser takes
            return respond(_unreadable(error.__cause__), _path(request))
        message, headers = NO_SUCH_PATH, error.headers
        if error.status_code == 405:
            methods = ", ".join(_methods(request, (error.headers or {}).get("Allow", "")))
            message, headers = f"This path takes {methods}.", {"Allow": methods}
        body = body_of(message, error.status_code, None, f"http_{error.status_code}", _path(request))
        return JSONResponse(body, error.status_code, headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error", exc_info=error)
        return respond(DarkroomError(), _path(request))


def _unreadable(reason: BaseException | None) -> DarkroomError:
    """Return our error for a body that could not be parsed."""
    if isinstance(reason, DarkroomError):
        return reason
    if isinstance(reason, UnicodeDecodeError):
        return InvalidRequest("The body must be JSON in UTF-8.")
    return InvalidRequest("The body cannot be read: it is nested too deeply, or a number in it has too many digits.")


def _methods(request: Request, allowed: str) -> list[str]:
    """The methods that a path has, as OpenAPI says; where several templates fit it, the longest is meant.

    Of a path that OpenAPI does not have, as `/docs`, those that Starlette's `allowed` has: of several routes with one
    path, it names the methods of the first alone.
    """
    paths = request.app.openapi()["paths"]
    fitting = [template for template in paths if _pattern(template).fullmatch(_path(request))]
    described = paths[max(fitting, key=len)] if fitting else re.findall("[A-Z]+", allowed)
    methods = {method.upper() for method in described}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def _pattern(template: str) -> re.Pattern[str]:
    return compile_path(template.replace("{model_id}", "{model_id:path}"))[0]


def _path(request: Request) -> str:
    return path_of(request.scope)
