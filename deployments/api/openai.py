"""The OpenAI Images dialect: body -> `GenerationRequest`, `Job` -> body; and its route."""

import asyncio
import base64
import io
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, create_model

from deployments.api.auth import owner_of
from deployments.api.dialect import Dialect
from deployments.api.errors import documented
from deployments.api.event_stream import encode_event, event_stream
from deployments.api.examples import PICTURES
from deployments.api.headers import IdempotencyKey, allowance_headers
from deployments.api.jobs import ended, raise_if_unsuccessful
from deployments.api.json_body import Utf8Route
from deployments.api.sizes import nearest_size, size_refused
from deployments.config import Sizes
from deployments.dispatcher.client import DispatcherClient
from deployments.error_responses import error_body
from deployments.image_store import ImageStore
from deployments.origins import base_url, link_to
from deployments.request_body import RequestBody
from deployments.schema import MAX_IMAGES, GenerationRequest, ImageResult, Job
from deployments.styles import STYLES, StyleName
from models.errors import DarkroomError, InvalidRequest
from models.parameters import MAX_STEPS, MAX_STEPS_BY_SAMPLER
from models.spec import ModelCard, find_card
from models.validation import Matching

DIALECT = Dialect({"num_images": "n", "width": "size", "height": "size"})
EVENTS = {  # of a stream, as FastAPI describes its own: an error has data alone
    "itemSchema": {
        "type": "object",
        "properties": {
            "event": {"enum": ["image_generation.partial_image", "image_generation.completed"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "required": ["data"],
    }
}
STEP_SHARE = {"low": 0.5, **dict.fromkeys(("high", "xhigh", "max", "hd"), 2.0)}  # of the model's own steps
URL_BY_DEFAULT = "dall-e-"  # OpenAI's models whose names begin so gave addresses by default
IGNORED = "Accepted and ignored."


def _refuse(value: object) -> None:
    if value is not None:
        raise ValueError("is not supported here: pictures are still, and made of pixels")


Unsupported = Annotated[None, BeforeValidator(_refuse)]
SizeName = Annotated[str, Matching("auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", "WIDTHxHEIGHT in pixels, or auto")]


class OpenAIFields(RequestBody):
    """What OpenAI has and `GenerationRequest` has under another name, or not at all."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": "a red circle on a blue background", "seed": 7}],
        },
    )

    n: int = Field(1, ge=1, le=MAX_IMAGES, description="How many pictures.")
    size: SizeName = Field("auto", description="`WIDTHxHEIGHT` in pixels, or `auto`.")
    quality: Literal["auto", "standard", "medium", "low", "high", "xhigh", "max", "hd"] | None = Field(
        None,
        description="`low` takes half the model's own steps, `high`, `xhigh`, `max` and `hd` twice as many, within "
        "what model and sampler allow; `num_inference_steps` wins over it.",
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="The image in the response, or its address, which any browser can open while the job is kept. "
        f"Default: the address for models whose name begins with `{URL_BY_DEFAULT}`, else the image.",
    )
    stream: StrictBool = Field(False, description="Answer with server-sent events.")
    partial_images: int = Field(0, ge=0, le=3, description="Previews in the stream; 0 without `stream`.")
    style: StyleName | Literal["vivid", "natural"] | None = Field(
        None, description="A preset that adds words to the prompt; OpenAI's own two change nothing."
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="Pictures are opaque.")
    moderation: Literal["auto", "low"] | None = Field(None, description="Accepted and ignored: nothing is moderated.")
    user: str | None = Field(None, max_length=4000, description=IGNORED)
    safety_identifier: str | None = Field(None, max_length=4000, description=IGNORED)
    complexity: str | None = Field(None, max_length=100, description=IGNORED)
    effort: str | None = Field(None, max_length=100, description=IGNORED)
    svg: Unsupported = Field(None, description="Not supported.")
    frame_count: Unsupported = Field(None, description="Not supported.")
    frame_duration_ms: Unsupported = Field(None, description="Not supported.")


SHARED = DIALECT.shared_fields("style")  # which is wider here
ImagesBody: Any = create_model("ImagesBody", __base__=OpenAIFields, **SHARED)


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


def to_request(body: Any, card: ModelCard | None = None, sizes: Sizes = "exact") -> GenerationRequest:
    """Return the request that an OpenAI body means.

    With the card of its model, a quality is a share of that model's own steps. With `nearest` sizes, too, a size that
    the model does not allow is the nearest one that it does.

    Raises:
        InvalidRequest: several images in one stream, whose events could not tell them apart; addresses in one; or
            previews without one.
    """
    if body.partial_images and not body.stream:
        raise InvalidRequest("partial_images must be 0 unless stream is true.", "partial_images")
    if body.stream and body.n > 1:
        raise InvalidRequest("n must be 1 when stream is true.", "n")
    if body.stream and body.response_format == "url":
        raise InvalidRequest("response_format must be b64_json when stream is true.", "response_format")
    fields = body.model_dump(exclude_unset=True, include=set(SHARED))
    if body.size != "auto":
        width, height = map(int, body.size.split("x"))
        if card is not None and sizes == "nearest":
            width, height = nearest_size(card, (width, height))
        fields |= {"width": width, "height": height}
    if body.style in STYLES:
        fields["style"] = body.style
    if card is not None and body.quality in STEP_SHARE and "num_inference_steps" not in fields:
        fields["num_inference_steps"] = _steps(card, body.quality, body.sampler or card.defaults["sampler"])
    return DIALECT.read(fields | {"num_images": body.n})


def _steps(card: ModelCard, quality: str, sampler: str) -> int:
    """Return the steps that a quality means, within what the model and a sampler allow."""
    least, most = card.bounds.get("num_inference_steps", (1, MAX_STEPS))
    most = min(most, MAX_STEPS, MAX_STEPS_BY_SAMPLER.get(sampler, MAX_STEPS))
    return min(most, max(least, round(card.defaults["num_inference_steps"] * STEP_SHARE[quality])))


def wants_url(body: Any) -> bool:
    """Whether the response has the addresses of the images, and not their content."""
    by_default = "url" if (body.model or "").startswith(URL_BY_DEFAULT) else "b64_json"
    return (body.response_format or by_default) == "url"


def with_warnings(job: Job, body: Any) -> Job:
    """Return a job with a warning more for its size if that is not the body's, and for a quality without effect."""
    found, size = [], f"{job.specs[0].width}x{job.specs[0].height}"
    if body.size not in ("auto", size):
        found.append(f'size: {body.size} is not a size of model "{job.model}"; {size}, the nearest one, was used.')
    if body.quality in STEP_SHARE and body.num_inference_steps is not None:
        found.append(f"quality: {body.quality} has no effect, as num_inference_steps is set.")
    return replace(job, warnings=(*found, *job.warnings)) if found else job


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


def partial_event(job: Job, preview: str, index: int) -> dict[str, Any]:
    """Return the stream's event for a preview."""
    content = preview.partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        width, height = image.size
    return {
        "type": "image_generation.partial_image",
        "job_id": job.id,
        "b64_json": content,
        "partial_image_index": index,
        "created_at": int(time.time()),
        "background": "opaque",
        "output_format": "webp",
        "quality": "auto",
        "size": f"{width}x{height}",
    }


def completed_event(job: Job, picture: bytes, quality: str | None = None) -> dict[str, Any]:
    """Return the stream's last event."""
    event = {
        "type": "image_generation.completed",
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


def router(
    client: DispatcherClient, images: ImageStore, public_url: str | None = None, sizes: Sizes = "exact"
) -> APIRouter:
    """Return the dialect's one route.

    Addresses of images begin with `public_url`, if given, else as the request's. With `nearest` sizes, one that a model
    does not allow is not refused.
    """
    routes = APIRouter(route_class=Utf8Route, tags=["images"])

    @routes.post(
        "/images/generations",
        summary="Draw pictures and wait for them",
        description="OpenAI's body and answer. With `stream` it is a stream of events, of OpenAI's types alone, and a "
        "comment every 15 s while none comes. `x-job-id` is the job's id, which its events have as `job_id` too.",
        responses={
            200: {
                "model": ImagesAnswer,
                "content": {
                    "application/json": {"example": PICTURES},
                    "text/event-stream": EVENTS,
                },
                "headers": {"x-job-id": {"schema": {"type": "string"}, "description": "The id of the job."}},
            },
            **documented(400, 404, 409, 410, 413, 422, 429, 503, 504, 507),
        },
    )
    async def generate(
        body: ImagesBody,  # type: ignore[valid-type]
        request: Request,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        owner = owner_of(request)
        job = await _submit(client, body, sizes, owner, idempotency_key)
        headers = {"x-job-id": job.id} | await allowance_headers(client, owner)
        if body.stream:
            return event_stream(_events(client, images, job, body), headers)
        with DIALECT.errors():
            job = with_warnings(await ended(client, job), body)
        if wants_url(body):
            base = base_url(request.scope, public_url)
            contents = [{"url": f"{base}{link_to(job, image)}"} for image in job.images]
        else:
            found = await asyncio.gather(*(asyncio.to_thread(images.get, image.name) for image in job.images))
            contents = [{"b64_json": _base64(content)} for content in found]
        return JSONResponse(to_body(job, contents, body.quality), headers=headers)

    return routes


async def _submit(client: DispatcherClient, body: Any, sizes: Sizes, owner: str, key: str | None) -> Job:
    """Queue the request that a body means.

    Raises:
        InvalidRequest: in the names of the dialect; nothing was queued.
    """
    needs_card = body.quality in STEP_SHARE or (sizes == "nearest" and body.size != "auto")
    card = find_card(await client.models(), body.model) if needs_card else None
    try:
        with DIALECT.errors():
            return await client.submit(to_request(body, card, sizes), owner, key)
    except InvalidRequest as error:
        if error.param == "size" and (card := find_card(await client.models(), body.model)) is not None:
            raise size_refused(card, body.size) from None
        raise


async def _events(client: DispatcherClient, images: ImageStore, job: Job, body: Any) -> AsyncGenerator[bytes, None]:
    """Yield OpenAI's events: no type of our own, as its clients would take it for a picture."""
    shown, sent = "", 0
    try:
        async for state in client.watch(job.id):
            job = state
            if preview := due_preview(job, shown, sent, body.partial_images):
                event = partial_event(job, preview, sent)
                yield encode_event(event, event["type"])
                shown, sent = preview, sent + 1
        with DIALECT.errors():
            raise_if_unsuccessful(job)
        picture = await asyncio.to_thread(images.get, job.images[0].name)
        event = completed_event(with_warnings(job, body), picture, body.quality)
        yield encode_event(event, event["type"])
    except DarkroomError as error:
        yield encode_event(error_body(error))


def _described(image: ImageResult, quality: str | None) -> dict[str, str]:
    spec = image.spec
    size = f"{spec.width}x{spec.height}"
    return {"background": "opaque", "output_format": spec.output_format, "quality": quality or "auto", "size": size}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
