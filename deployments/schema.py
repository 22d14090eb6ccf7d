"""The shapes that clients see: a request, and the job that it becomes.

A field of `GenerationRequest` carries its bounds and words once; HTTP validation, OpenAPI and the page's control come
from it. What a request leaves out is not a default but open: the model's card fills it in.

A field may hold a nested object, or a list of them: a pydantic model in the request, a dataclass in `ImageSpec`, whose
members have the same names. The dataclass may have more, such as a digest.
"""

from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, field_validator

from deployments.nested_requests import MAX_LORAS, HiresRequest, InitRequest, LoraRequest
from deployments.request_body import RequestBody
from deployments.styles import StyleName
from models.parameters import MAX_CLIP_SKIP, MAX_SIDE, MAX_STEPS, MIN_SIDE, OutputFormat, PromptSyntax, Sampler

MAX_SEED = 2**32 - 1
RANDOM_SEED = -1  # as AUTOMATIC1111's clients write it
MAX_PROMPT = 4000  # characters
MAX_IMAGES = 10  # of a request

Status = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]


def of_model(**described: Any) -> Any:
    """Return a field whose default is the model's: where it is left out or null, the card has its value."""
    extra = described.pop("json_schema_extra", {})
    return Field(None, json_schema_extra={**extra, "default_of": "model"}, **described)


class GenerationRequest(RequestBody):
    """What to draw. Only the prompt is needed; the model's card knows good values for the rest."""

    prompt: str = Field(
        min_length=1,
        max_length=MAX_PROMPT,
        description="What the picture shows.",
        examples=["a red circle on a blue background"],
    )
    negative_prompt: str | None = of_model(max_length=MAX_PROMPT, description="What the picture should not show.")
    prompt_syntax: PromptSyntax | None = of_model(
        description="How both prompts are read. With `weighted`, brackets are weights, as in (red:1.2), BREAK ends a "
        "chunk, and <lora:name:weight> names a LoRA."
    )
    style: StyleName | None = Field(None, description="A preset that adds words to the prompt.")
    model: str | None = Field(None, max_length=200, description="Which model draws. Default: the first one served.")
    width: int | None = of_model(
        ge=MIN_SIDE, le=MAX_SIDE, description="Width in pixels.", json_schema_extra={"step": 8}
    )
    height: int | None = of_model(
        ge=MIN_SIDE, le=MAX_SIDE, description="Height in pixels.", json_schema_extra={"step": 8}
    )
    num_inference_steps: int | None = of_model(
        ge=1, le=MAX_STEPS, description="Denoising steps: more is slower and finer."
    )
    guidance_scale: float | None = of_model(
        ge=0,
        le=30,
        allow_inf_nan=False,
        description="How strictly the picture follows the prompt. Up to 1 switches guidance off.",
        json_schema_extra={"step": 0.5},
    )
    guidance_rescale: float | None = of_model(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much of the contrast that guidance adds is taken back.",
        json_schema_extra={"step": 0.05},
    )
    clip_skip: int | None = of_model(
        ge=0,
        le=MAX_CLIP_SKIP,
        description="Last layers of the text encoder that the prompt skips: 0 for none, where AUTOMATIC1111 writes 1.",
    )
    sampler: Sampler | None = of_model(description="The method that removes the noise.")
    init: InitRequest | None = Field(None, description="An image to begin with.")
    hires: HiresRequest | None = Field(None, description="A second pass at a higher resolution.")
    loras: list[LoraRequest] | None = Field(
        None, max_length=MAX_LORAS, description="LoRAs to generate with, each of another name."
    )
    seed: int | None = Field(
        None,
        ge=RANDOM_SEED,
        le=MAX_SEED,
        description="Same seed, same picture. Left out, or -1: a random one.",
    )
    num_images: int = Field(
        1,
        ge=1,
        le=MAX_IMAGES,
        description="How many pictures. Picture k has seed + k.",
        json_schema_extra={"page_maximum": 4},
    )
    output_format: OutputFormat | None = of_model(description="File format. Each file carries its settings.")
    output_compression: int = Field(
        95,
        ge=0,
        le=100,
        description="Quality of a JPEG or WebP file: less is smaller. A WebP of 100 loses nothing, as PNG.",
        json_schema_extra={"page": False},
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which the job is given up.",
        json_schema_extra={"page": False},
    )

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _plain_text(cls, text: str | None) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError("must not contain the NUL character")
        return text

    @field_validator("loras")
    @classmethod
    def _each_once(cls, loras: list[LoraRequest] | None) -> list[LoraRequest] | None:
        names = [lora.name for lora in loras or ()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"must have each name once; {twice} is there {names.count(twice)} times")
        return loras

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text


class VariationRequest(GenerationRequest):
    """Another version of an image: what to draw without a word."""

    prompt: Literal[""] = ""
    init: InitRequest

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        return text


def fields_but(*others: str) -> dict[str, Any]:
    """Return the fields of a request as `create_model` takes them, but those that a dialect has in another way."""
    return {
        name: (field.annotation, field) for name, field in GenerationRequest.model_fields.items() if name not in others
    }


def nested_type(annotation: Any) -> type[BaseModel] | None:
    """Return the type of the objects that a field holds, one or a list of them; None where it holds plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := nested_type(part))), None)
