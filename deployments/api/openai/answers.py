"""OpenAI's answers: `Job` -> body, or a stream of events."""

import asyncio
import base64
import io
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel

from deployments.api.auth import owner_of
from deployments.api.dialect import Dialect
from deployments.api.errors import documented
from deployments.api.event_stream import encode_event, event_stream
from deployments.api.examples import PICTURES
from deployments.api.headers import allowance_headers
from deployments.api.jobs import ended, raise_if_unsuccessful
from deployments.api.openai.fields import STEP_SHARE, URL_BY_DEFAULT
from deployments.api.sizes import Size
from deployments.dispatcher.client import DispatcherClient
from deployments.error_responses import error_body
from deployments.image_store import ImageStore
from deployments.jobs import ImageResult, Job
from deployments.origins import base_url, link_to
from models.errors import DarkroomError


class Picture(BaseModel):
    """One picture of an answer."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImagesAnswer(BaseModel):
    """The finished pictures."""

    created: int
    data: list[Picture]
    background: str
    output_format: str
    quality: str
    size: str
    warnings: list[str] = []


def answered(kind: str | None) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of the answers of a route, whose events have types that begin with `kind`, if any."""
    content: dict[str, Any] = {"application/json": {"example": PICTURES}}
    if kind is not None:  # as FastAPI describes its own: an error has data alone
        described = {
            "event": {"enum": [f"{kind}.partial_image", f"{kind}.completed"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        }
        item = {"type": "object", "properties": described, "required": ["data"]}
        content["text/event-stream"] = {"itemSchema": item}
    headers = {"x-job-id": {"schema": {"type": "string"}, "description": "The id of the job."}}
    return {
        200: {"model": ImagesAnswer, "content": content, "headers": headers},
        **documented(400, 404, 409, 410, 413, 422, 429, 503, 504, 507),
    }


class Answers:
    """Answers requests with their images. Addresses begin with `public_url`, if given, else as the request's."""

    def __init__(self, client: DispatcherClient, images: ImageStore, public_url: str | None = None) -> None:
        self._client = client
        self._images = images
        self._public_url = public_url

    async def answer(
        self, job: Job, body: Any, request: Request, dialect: Dialect, kind: str, sent: Size | None = None
    ) -> Response:
        """Return the answer to a body whose job was accepted: its images, or a stream of events of a `kind`.

        `sent` is the size of the image that came with the body, if one did.

        Raises:
            DarkroomError: the job failed; in the names of the dialect.
        """
        headers = {"x-job-id": job.id} | await allowance_headers(self._client, owner_of(request))
        if body.stream:
            return event_stream(self._events(job, body, dialect, kind, sent), headers)
        with dialect.errors():
            job = with_warnings(await ended(self._client, job), body, dialect, sent)
        if wants_url(body):
            base = base_url(request.scope, self._public_url)
            contents = [{"url": f"{base}{link_to(job, image)}"} for image in job.images]
        else:
            found = await asyncio.gather(*(asyncio.to_thread(self._images.get, image.name) for image in job.images))
            contents = [{"b64_json": _base64(content)} for content in found]
        return JSONResponse(to_body(job, contents, body.quality), headers=headers)

    async def _events(
        self, job: Job, body: Any, dialect: Dialect, kind: str, sent_size: Size | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield OpenAI's events: no type of our own, as its clients would take it for a picture."""
        shown, sent = "", 0
        try:
            async for state in self._client.watch(job.id):
                job = state
                if preview := due_preview(job, shown, sent, body.partial_images):
                    event = partial_event(job, preview, sent, kind)
                    yield encode_event(event, event["type"])
                    shown, sent = preview, sent + 1
            with dialect.errors():
                raise_if_unsuccessful(job)
            picture = await asyncio.to_thread(self._images.get, job.images[0].name)
            event = completed_event(with_warnings(job, body, dialect, sent_size), picture, kind, body.quality)
            yield encode_event(event, event["type"])
        except DarkroomError as error:
            yield encode_event(error_body(error))


def wants_url(body: Any) -> bool:
    """Whether the response has the addresses of the images, and not their content."""
    by_default = "url" if (body.model or "").startswith(URL_BY_DEFAULT) else "b64_json"
    return (body.response_format or by_default) == "url"


def with_warnings(job: Job, body: Any, dialect: Dialect, sent: Size | None = None) -> Job:
    """Return a job with its warnings in the names of the dialect.

    There is one more for its size if that is not the body's, or with `auto` that of the image which was `sent`, and for
    a quality without effect.
    """
    spec, found = job.specs[0], []
    size = f"{spec.width}x{spec.height}"
    if body.size not in ("auto", size):
        found.append(f'size: {body.size} is not a size of model "{job.model}"; {size}, the nearest one, was used.')
    is_whole = spec.init is not None and spec.init.area == "whole"  # of a part, the result is as large as the image
    if body.size == "auto" and sent not in (None, (spec.width, spec.height)) and is_whole:
        sent_size = "{}x{}".format(*sent)
        found.append(f'size: image has {sent_size}; with auto, model "{job.model}" makes {size} of it.')
    if body.quality in STEP_SHARE and body.num_inference_steps is not None:
        found.append(f"quality: {body.quality} has no effect, as num_inference_steps is set.")
    return replace(job, warnings=(*found, *map(dialect.warning, job.warnings)))


def to_body(job: Job, contents: Sequence[Mapping[str, str]], quality: str | None = None) -> dict[str, Any]:
    """Return the answer for a finished job; each of `contents` is an image as `b64_json`, or its `url`."""
    data = [{**content, "seed": image.seed} for content, image in zip(contents, job.images, strict=True)]
    body = {"created": int(time.time()), "data": data, **_described(job.images[0], quality)}
    return body | ({"warnings": list(job.warnings)} if job.warnings else {})


def due_preview(job: Job, shown: str, sent: int, wanted: int) -> str:
    """Return the newest preview, a data URL, if it is time for the next of those that are `wanted`; else an empty text.

    They are spread over the steps: the first of three is due after a quarter of them. `shown` was the last one `sent`.
    """
    if job.progress is None or sent == wanted:
        return ""
    preview = job.progress.previews.get(0, "")
    is_time = job.progress.step * (wanted + 1) >= job.progress.steps * (sent + 1)
    return preview if is_time and preview != shown else ""


def partial_event(job: Job, preview: str, index: int, kind: str) -> dict[str, Any]:
    """Return the stream's event for a preview; its type begins with `kind`."""
    content = preview.partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        width, height = image.size
    return {
        "type": f"{kind}.partial_image",
        "job_id": job.id,
        "b64_json": content,
        "partial_image_index": index,
        "created_at": int(time.time()),
        "background": "opaque",
        "output_format": "webp",
        "quality": "auto",
        "size": f"{width}x{height}",
    }


def completed_event(job: Job, picture: bytes, kind: str, quality: str | None = None) -> dict[str, Any]:
    """Return the stream's last event; its type begins with `kind`."""
    event = {
        "type": f"{kind}.completed",
        "job_id": job.id,
        "b64_json": _base64(picture),
        "created_at": int(time.time()),
        "seed": job.images[0].seed,
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
            "output_tokens": 0,
            "total_tokens": 0,
        },
        **_described(job.images[0], quality),
    }
    return event | ({"warnings": list(job.warnings)} if job.warnings else {})


def _described(image: ImageResult, quality: str | None) -> dict[str, str]:
    """Return what an image is; no size where it has that of the image which was sent, as only a part was made anew."""
    spec = image.spec
    described = {"background": "opaque", "output_format": spec.output_format, "quality": quality or "auto"}
    if spec.init is not None and spec.init.area == "masked":
        return described
    return described | {"size": "{}x{}".format(*spec.size)}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
