"""What a checkpoint says of itself in `darkroom.json`. No torch."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from models.checkpoint.configs import read_json
from models.checkpoint.files import DESCRIPTION
from models.errors import UnusableCheckpoint
from models.parameters import MAX_CLIP_SKIP, MAX_SIDE, MAX_STEPS, OutputFormat, PromptSyntax
from models.validation import first_problem


class DefaultSettings(BaseModel):
    """The fields of a request that a checkpoint may have values for. Their bounds are those of requests."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    negative_prompt: str = ""
    width: int = Field(default=0, ge=1, le=MAX_SIDE)
    height: int = Field(default=0, ge=1, le=MAX_SIDE)
    num_inference_steps: int = Field(default=0, ge=1, le=MAX_STEPS)
    guidance_scale: NonNegativeFloat = 0.0
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    clip_skip: int = Field(default=0, ge=0, le=MAX_CLIP_SKIP)
    prompt_syntax: PromptSyntax = "plain"
    sampler: str = ""
    output_format: OutputFormat = "png"
    output_compression: NonNegativeInt = 0


class CheckpointSettings(BaseModel):
    """What a checkpoint says of itself in `darkroom.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: DefaultSettings = DefaultSettings()
    bounds: dict[Literal["width", "height", "num_inference_steps"], tuple[PositiveInt, PositiveInt]] = {}
    size_multiple: PositiveInt | None = None
    styles: tuple[str, ...] = ()
    notice: str = ""
    examples: tuple[dict[str, Any], ...] = ()


def read_settings(folder: Path) -> CheckpointSettings:
    """Return what the checkpoint says of itself, empty where it says nothing.

    Raises:
        UnusableCheckpoint: names the entry that is wrong.
    """
    if not (folder / DESCRIPTION).exists():
        return CheckpointSettings()
    try:
        return CheckpointSettings.model_validate(read_json(folder, DESCRIPTION))
    except ValidationError as error:
        raise UnusableCheckpoint(f"{folder / DESCRIPTION}: {first_problem(error.errors())[1]}") from error
