"""The objects that a request may hold: `GenerationRequest` has them as fields, `ImageSpec` as dataclasses."""

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from deployments.request_body import RequestBody
from models.parameters import MAX_HIRES_SCALE, MAX_STEPS, Area, ResizeMode, Upscaler

IMAGE = "The `id` of an input, or the `name` of a finished picture."
IMAGE_FORMAT = {"format": "image-id"}  # of a text that names an image: the page takes one there
MAX_IMAGE_ID = 200  # characters
UNMASKED = ("strength", "resize_mode")  # what an image without a mask has
MAX_MASK_BLUR = 64  # pixels
MAX_LORAS = 4  # of a request
MAX_LORA_WEIGHT = 5.0


def strength_of(what: str) -> Any:
    """Return the field that says how much of an image is made anew; where it is left out, the model's."""
    return Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description=f"How much of {what} is made anew: 1 keeps nothing.",
        json_schema_extra={"default_of": "model", "step": 0.05},
    )


class InitRequest(RequestBody):
    """An image to begin with. A mask says which part of it is made anew: what is white in it."""

    input: str = Field(min_length=1, max_length=MAX_IMAGE_ID, description=IMAGE, json_schema_extra={**IMAGE_FORMAT})
    strength: float | None = strength_of("the image")
    resize_mode: ResizeMode = Field(
        "crop", description="How an image of another shape becomes one of this size: cropped, filled up, or stretched."
    )
    mask: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_IMAGE_ID,
        description=f"Black keeps. {IMAGE}",
        json_schema_extra={**IMAGE_FORMAT},
    )
    area: Area = Field(
        "whole",
        description="With `masked` only what lies around the mask is generated, at the full size, and pasted back: the "
        "result is as large as the input.",
    )
    paste_back: bool = Field(
        False,
        description="Put the pixels outside the mask back, as `area` `masked` always does: else they change a little.",
    )

    mask_blur: int = Field(
        4,
        ge=0,
        le=MAX_MASK_BLUR,
        description="How softly `paste_back` goes from the new image to the old one: within about twice as many pixels "
        "around the mask.",
    )

    @field_validator("area", "paste_back", "mask_blur")
    @classmethod
    def _only_with_a_mask(cls, value: Any, info: ValidationInfo) -> Any:
        default = cls.model_fields[str(info.field_name)].default  # which receipts and their code say, mask or not
        if value != default and "mask" in info.data and info.data["mask"] is None:
            raise ValueError("must be left out without a mask")
        return value

    @field_validator("paste_back")
    @classmethod
    def _always_for_a_part(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and info.data.get("area") == "masked":
            raise ValueError("must be true or left out when area is masked: what is generated is a part of the image")
        return value

    @field_validator("mask_blur")
    @classmethod
    def _only_where_pasted_back(cls, value: int, info: ValidationInfo) -> int:
        is_pasted = info.data.get("paste_back", True) or info.data.get("area") == "masked"
        if value != cls.model_fields["mask_blur"].default and not is_pasted:  # the default: as above
            raise ValueError("must be left out without paste_back")
        return value


class LoraRequest(RequestBody):
    """A LoRA to generate with: a file in the model's folder of adapters."""

    name: str = Field(min_length=1, max_length=100, description="Its name, as `GET /v1/models/{model}` lists it.")
    weight: float = Field(
        1.0,
        ge=-MAX_LORA_WEIGHT,
        le=MAX_LORA_WEIGHT,
        allow_inf_nan=False,
        description="How much of it is added; less than 0 takes away what it adds.",
        json_schema_extra={"step": 0.05},
    )


class HiresRequest(RequestBody):
    """A second pass at a higher resolution, which begins with the result of the first one, scaled up."""

    scale: float = Field(
        gt=1,
        le=MAX_HIRES_SCALE,
        allow_inf_nan=False,
        description="How many times as wide and as high the image becomes, rounded down to sizes that the model has.",
        json_schema_extra={"step": 0.25},
    )
    strength: float | None = strength_of("the first pass's result")
    steps: int | None = Field(
        None,
        ge=1,
        le=MAX_STEPS,
        description="Denoising steps of the second pass, of which `strength` says how many are made.",
        json_schema_extra={"default_of": "num_inference_steps"},
    )
    upscaler: Upscaler = Field("latent", description="What is scaled up: the latents, or the decoded image.")
