"""Uploaded images: send, list, look, fetch, delete."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from deployments.api.auth import owner_of
from deployments.api.errors import documented
from deployments.api.examples import AN_INPUT, EXTENDED, INPUT, INPUTS, answer
from deployments.api.form import FORM, NO_ADDRESSES, counted, read_parts
from deployments.api.headers import kept_forever
from deployments.api.json_body import Utf8Route
from deployments.dispatcher.client import DispatcherClient
from deployments.errors import TooLarge
from deployments.input_intake import InputIntake
from deployments.input_store import StoredInput, file_name
from deployments.request_body import RequestBody
from models.errors import InvalidRequest
from models.image_input import Sides

FILE = "file"  # the form's field
BODY = "body"  # what errors call an image without a form
TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}  # by what a file begins with
UNKNOWN_TYPE = "application/octet-stream"
InputId = Annotated[str, Path(description="As the upload returned it.", examples=[AN_INPUT])]

UPLOAD: dict[str, Any] = {  # what OpenAPI says of the body
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {FILE: {"type": "string", "format": "binary"}},
                    "required": [FILE],
                    "additionalProperties": False,
                }
            },
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES.values()},
        },
    }
}


class Extension(RequestBody):
    """Room for an image to go on: a share of its width to the left and right, of its height up and down."""

    left: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    right: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    up: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    down: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    mask: str | None = Field(None, max_length=100, description="An input: a mask of the image, which stays part of it.")


class Extended(BaseModel):
    """Two inputs: the image with room on its sides, and a mask that is white there."""

    input: StoredInput
    mask: StoredInput


class InputList(BaseModel):
    """Inputs, newest first. While `has_more`, `after=<last_id>` gives the next ones."""

    object: str = "list"
    data: list[StoredInput]
    has_more: bool
    last_id: str | None


def router(client: DispatcherClient, intake: InputIntake) -> APIRouter:
    """Return the routes of inputs."""
    routes = APIRouter(tags=["inputs"], route_class=Utf8Route)
    _add_upload(routes, intake)
    _add_reading(routes, client)
    _add_content(routes, client, intake)
    _add_extending(routes, intake)
    _add_deleting(routes, client)
    return routes


def _add_upload(routes: APIRouter, intake: InputIntake) -> None:
    location = {"Location": {"schema": {"type": "string"}, "description": "The address of the input."}}

    @routes.post(
        "/inputs",
        status_code=201,
        summary="Upload an image for later requests",
        description="A PNG, JPEG or WebP file, as the field `file` of a form or as the body itself; its bytes decide "
        "which. It is decoded whole and stored as it came before this answers. The same image again is the same input, "
        "and is kept for longer.",
        openapi_extra=UPLOAD,
        responses={
            200: answer(StoredInput, INPUT, headers=location, description="You have it already."),
            201: answer(StoredInput, INPUT, headers=location),
            **documented(400, 413, 429, 503, 507),
        },
    )
    async def upload(request: Request) -> JSONResponse:
        owner = owner_of(request)
        length, most = _declared_length(request), intake.config.max_input_bytes
        await intake.check_room(owner, min(length, most))
        with counted(request, intake, owner) as sent:
            field, content = await _sent_image(sent, most)
            image, is_new = await intake.add(owner, content, field)
        return JSONResponse(asdict(image), 201 if is_new else 200, {"Location": f"/v1/inputs/{image.id}"})


def _declared_length(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


async def _sent_image(request: Request, most: int) -> tuple[str, bytes]:
    """Return the field that holds the image of a request, and its bytes.

    Raises:
        InvalidRequest: the body holds no image; which part of it is wrong.
        TooLarge: it has more than `most` bytes; no more were read.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == FORM:
        return FILE, await _sent_file(request)
    if kind.startswith("image/") or kind == UNKNOWN_TYPE:
        return BODY, await _sent_body(request, most)
    message = f"Content-Type must be {FORM} with a field {FILE}, or {', '.join(TYPES.values())}"
    raise InvalidRequest(f"{message}; got {content_type[:100] or 'none'}. {NO_ADDRESSES}", "Content-Type")


async def _sent_body(request: Request, most: int) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise TooLarge(f"The image must be at most {most} bytes.", BODY)
    return bytes(content)


async def _sent_file(request: Request) -> bytes:
    parts = await read_parts(request, 1, 1, f"one part, {FILE}, that has a file name")
    if unknown := [name[:100] for name, _ in parts if name != FILE]:
        raise InvalidRequest(f"{unknown[0]} is not a known field. Send the image as {FILE}.", unknown[0])
    sent = parts[0][1] if len(parts) == 1 else None
    if not isinstance(sent, bytes):
        raise InvalidRequest(f"{FILE} must be one file, with a file name in its part. {NO_ADDRESSES}", FILE)
    return sent


def _add_reading(routes: APIRouter, client: DispatcherClient) -> None:
    @routes.get(
        "/inputs",
        summary="Your inputs, newest first",
        responses={200: answer(InputList, INPUTS), **documented(400, 404, 503)},
    )
    async def mine(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100, description="So many at most.")] = 20,
        after: Annotated[
            str | None, Query(max_length=100, description="Only those that came before this one: an input's id.")
        ] = None,
    ) -> JSONResponse:
        found = await client.inputs(owner_of(request), limit + 1, after)
        page = found[:limit]
        body = {"object": "list", "data": [asdict(image) for image in page]}
        return JSONResponse(body | {"has_more": len(found) > limit, "last_id": page[-1].id if page else None})

    @routes.get(
        "/inputs/{input_id}",
        summary="One input",
        description="After `expires` it is deleted, unless a job that has not ended needs it.",
        responses={200: answer(StoredInput, INPUT), **documented(400, 404, 503)},
    )
    async def read(input_id: InputId, request: Request) -> JSONResponse:
        return JSONResponse(asdict(await client.input(input_id, owner_of(request))))


def _add_content(routes: APIRouter, client: DispatcherClient, intake: InputIntake) -> None:
    @routes.get(
        "/inputs/{input_id}/content",
        summary="The image, as it was uploaded",
        response_class=Response,
        responses={
            200: {"content": {kind: {"schema": {"type": "string"}} for kind in TYPES.values()}},
            304: {"description": "`If-None-Match` named what you have."},
            **documented(400, 404, 503),
        },
    )
    async def content(input_id: InputId, request: Request) -> Response:
        owner = owner_of(request)
        image = await client.input(input_id, owner)
        headers = kept_forever(image.id) | {"X-Content-Type-Options": "nosniff"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        stored = await asyncio.to_thread(intake.files.get, file_name(owner, image.id))
        kind = next((kind for start, kind in TYPES.items() if stored.startswith(start)), UNKNOWN_TYPE)
        return Response(stored, media_type=kind, headers=headers)


def _add_extending(routes: APIRouter, intake: InputIntake) -> None:
    @routes.post(
        "/inputs/{input_id}/extend",
        status_code=201,
        summary="Make room around an input, to let the image go on there",
        description="The result is two more inputs, for `init.input` and `init.mask` of a request. With `init.area` "
        "`masked` its picture is as large as the first of them.",
        responses={201: answer(Extended, EXTENDED), **documented(400, 404, 413, 429, 503, 507)},
    )
    async def extend(input_id: InputId, wanted: Extension, request: Request) -> JSONResponse:
        sides = Sides(wanted.left, wanted.right, wanted.up, wanted.down)
        if not any(sides):
            raise InvalidRequest("One of left, right, up and down must be greater than 0.", "left")
        image, mask = await intake.extend(owner_of(request), input_id, wanted.mask, sides)
        return JSONResponse({"input": asdict(image), "mask": asdict(mask)}, 201)


def _add_deleting(routes: APIRouter, client: DispatcherClient) -> None:
    @routes.delete(
        "/inputs/{input_id}",
        status_code=204,
        summary="Delete an input",
        description="While a job that has not ended needs it, this answers 409 and names the job.",
        response_class=Response,
        responses={204: {"description": "It is deleted."}, **documented(400, 404, 409, 503)},
    )
    async def delete(input_id: InputId, request: Request) -> Response:
        await client.delete_input(input_id, owner_of(request))
        return Response(status_code=204)
