"""OpenAI's fields, and what they mean: body -> the values of a `GenerationRequest`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, create_model

from deployments.api.dialect import Dialect, refused
from deployments.api.sizes import nearest_size, size_refused
from deployments.config import Sizes
from deployments.dispatcher.client import DispatcherClient
from deployments.nested_requests import InitRequest
from deployments.request_body import RequestBody
from deployments.schema import MAX_IMAGES, GenerationRequest
from deployments.styles import STYLES, StyleName
from models.errors import InvalidRequest
from models.model_card import ModelCard, find_card
from models.parameters import MAX_STEPS, MAX_STEPS_BY_SAMPLER
from models.validation import Matching

DIALECT = Dialect({"num_images": "n", "width": "size", "height": "size"})
STEP_SHARE = {"low": 0.5, **dict.fromkeys(("high", "xhigh", "max", "hd"), 2.0)}  # of the model's own steps
URL_BY_DEFAULT = "dall-e-"  # OpenAI's models whose names begin so gave addresses by default
IGNORED = "Accepted and ignored."


def refused_unless(allowed: str, reason: str) -> BeforeValidator:
    """Return what refuses every value of a field but one with a reason."""

    def refuse(value: object) -> object:
        if value not in (None, allowed):
            raise ValueError(f"must be {allowed}: {reason}")
        return value

    return BeforeValidator(refuse)


Unsupported = Annotated[None, refused("pictures are still, and made of pixels")]
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

INIT: dict[str, Any] = {  # of an image that comes with the request
    name: (field.annotation, field) for name, field in InitRequest.model_fields.items() if name not in ("input", "mask")
}
INIT["paste_back"] = (
    bool | None,
    Field(None, description=f"{InitRequest.model_fields['paste_back'].description} Default: true with a mask."),
)
EDITS = Dialect(
    {**DIALECT.names, "init.input": "image", "init.mask": "mask", **{f"init.{name}": name for name in INIT}}
)
OF_EDITS = EDITS.shared_fields("style", "init")


class EditFields(OpenAIFields):
    """What an edit has beside."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    input_fidelity: Annotated[
        Literal["low"] | None, refused_unless("low", "strength says how close to the image it stays")
    ] = Field(None, description="`low` alone; `strength` says how close to the image it stays.")


class VariationFields(OpenAIFields):
    """What OpenAI's variations do not have."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    prompt: Annotated[None, refused("POST /v1/images/edits takes one")] = Field(None, description="Not supported.")
    stream: Annotated[None, refused("POST /v1/images/edits streams")] = Field(None, description="Not supported.")
    partial_images: Annotated[None, refused("POST /v1/images/edits has previews")] = Field(
        None, description="Not supported."
    )


EditBody: Any = create_model("EditBody", __base__=EditFields, **OF_EDITS, **INIT)
VariationBody: Any = create_model(
    "VariationBody",
    __base__=VariationFields,
    **{name: field for name, field in (OF_EDITS | INIT).items() if name != "prompt"},
)


def request_values(body: Any, card: ModelCard | None = None, sizes: Sizes = "exact") -> dict[str, Any]:
    """Return the values of the request that an OpenAI body means, by the names of `GenerationRequest`.

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
    values = body.model_dump(exclude_unset=True, include=set(SHARED))
    if body.size != "auto":
        width, height = map(int, body.size.split("x"))
        if card is not None and sizes == "nearest":
            width, height = nearest_size(card, (width, height))
        values |= {"width": width, "height": height}
    if body.style in STYLES:
        values["style"] = body.style
    if card is not None and body.quality in STEP_SHARE and "num_inference_steps" not in values:
        values["num_inference_steps"] = _steps(card, body.quality, body.sampler or card.defaults["sampler"])
    return values | {"num_images": body.n}


def to_request(body: Any, card: ModelCard | None = None, sizes: Sizes = "exact") -> GenerationRequest:
    """Return the request that a body without an image means. Raises InvalidRequest, in the names of the dialect."""
    return DIALECT.read(request_values(body, card, sizes))


def _steps(card: ModelCard, quality: str, sampler: str) -> int:
    """Return the steps that a quality means, within what the model and a sampler allow."""
    least, most = card.bounds.get("num_inference_steps", (1, MAX_STEPS))
    most = min(most, MAX_STEPS, MAX_STEPS_BY_SAMPLER.get(sampler, MAX_STEPS))
    return min(most, max(least, round(card.defaults["num_inference_steps"] * STEP_SHARE[quality])))


def needs_card(body: Any, sizes: Sizes) -> bool:
    """Whether what a body means depends on its model."""
    return body.quality in STEP_SHARE or (sizes == "nearest" and body.size != "auto")


@asynccontextmanager
async def sizes_named(client: DispatcherClient, body: Any) -> AsyncIterator[None]:
    """Raise what is raised inside, but for a size with those that the model of a body allows."""
    try:
        yield
    except InvalidRequest as error:
        if error.param == "size" and (card := find_card(await client.models(), body.model)) is not None:
            raise size_refused(card, body.size) from None
        raise
