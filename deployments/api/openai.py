"""The OpenAI Images dialect: body -> `GenerationRequest`, `Job` -> body."""

import base64
import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from deployments.schema import GenerationRequest, ImageResult, Job
from models.errors import InvalidRequest

SHARED = (
    "prompt",
    "model",
    "output_format",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "sampler",
    "style",
    "deadline_s",
)


class OpenAIFields(BaseModel):
    """What OpenAI has and `GenerationRequest` has under another name, or not at all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(1, ge=1, le=10, description="How many pictures.")
    size: str = Field("auto", pattern=r"^(auto|\d{1,5}x\d{1,5})$", description="`WIDTHxHEIGHT` in pixels, or `auto`.")
    response_format: Literal["b64_json", "url"] = Field(
        "b64_json", description="Picture in the answer, or its address."
    )
    stream: bool = Field(False, description="Answer with server-sent events.")
    partial_images: int = Field(0, ge=0, le=3, description="Previews in the stream.")
    user: str | None = Field(None, description="Accepted and ignored.")


_shared: dict[str, Any] = {
    name: (f.annotation, f) for name, f in GenerationRequest.model_fields.items() if name in SHARED
}
ImagesBody: Any = create_model("ImagesBody", __base__=OpenAIFields, **_shared)


def to_request(body: Any) -> GenerationRequest:
    """Return the request that an OpenAI body means.

    Raises:
        InvalidRequest: several pictures in one stream: its events could not say which is meant.
    """
    if body.stream and body.n > 1:
        raise InvalidRequest("n must be 1 when stream is true.", "n")
    fields = body.model_dump(exclude_unset=True, include=set(SHARED))
    if body.size != "auto":
        fields["width"], fields["height"] = map(int, body.size.split("x"))
    return GenerationRequest(**fields, num_images=body.n)


def to_body(job: Job, pictures: Sequence[bytes] | None) -> dict[str, Any]:
    """Return the answer for a finished job: the pictures themselves, or their addresses where `pictures` is None."""
    data: list[dict[str, Any]] = []
    for k, image in enumerate(job.images):
        content = {"b64_json": _base64(pictures[k])} if pictures is not None else {"url": image.url}
        data.append(content | {"seed": image.seed})
    body = {"created": int(time.time()), "data": data, **_described(job.images[0])}
    return body | ({"warnings": list(job.warnings)} if job.warnings else {})


def partial_event(job: Job, index: int) -> dict[str, Any]:
    """Return the stream's event for the newest preview."""
    assert job.progress is not None
    spec = job.specs[0]
    return {
        "type": "image_generation.partial_image",
        "b64_json": job.progress.previews[0].partition(",")[2],
        "partial_image_index": index,
        "created_at": int(time.time()),
        "background": "opaque",
        "output_format": "webp",
        "quality": "auto",
        "size": f"{spec.width}x{spec.height}",
    }


def completed_event(job: Job, picture: bytes) -> dict[str, Any]:
    """Return the stream's last event."""
    event = {
        "type": "image_generation.completed",
        "b64_json": _base64(picture),
        "created_at": int(time.time()),
        "seed": job.images[0].seed,
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
            "output_tokens": 0,
            "total_tokens": 0,
        },
        **_described(job.images[0]),
    }
    return event | ({"warnings": list(job.warnings)} if job.warnings else {})


def _described(image: ImageResult) -> dict[str, str]:
    spec = image.spec
    size = f"{spec.width}x{spec.height}"
    return {"background": "opaque", "output_format": spec.output_format, "quality": "auto", "size": size}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
