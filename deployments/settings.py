"""What the parts of a config have in common: unknown keys are refused, and numbers are numbers."""

from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from deployments.request_body import plain_type


class Settings(BaseModel):
    """Refuses unknown keys, so that a misspelt one is an error and not a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans, texts and infinity, which pydantic takes for numbers; paths and lists are lax for YAML."""
        kind = plain_type(cls.model_fields[str(info.field_name)].annotation)
        if kind in (int, float) and isinstance(value, bool | str):
            raise PydanticKnownError("int_type" if kind is int else "float_type")
        if kind in (int, float) and isinstance(value, float) and not isfinite(value):
            raise PydanticKnownError("finite_number")
        return value
