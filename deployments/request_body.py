"""The body of a request, whatever its dialect: what `null` and booleans mean in it."""

from types import NoneType
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError


class RequestBody(BaseModel):
    """A JSON object from a caller, or one nested in it.

    An optional field that is null is left out. A boolean is no number. Unknown fields are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None or not cls._is_optional(name)}

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        kind = plain_type(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and kind in (int, float):
            raise PydanticKnownError("int_type" if kind is int else "float_type")
        return value

    @classmethod
    def _is_optional(cls, name: str) -> bool:
        return name in cls.model_fields and not cls.model_fields[name].is_required()

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        described = handler(schema)
        for name, field in handler.resolve_ref_schema(described)["properties"].items():
            if cls._is_optional(name) and field.get("type", "null") != "null":  # else null is among its types already
                field["type"] = [field["type"], "null"]
        return described


def plain_type(annotation: Any) -> Any:
    """Return the type of a field without the None of an optional one."""
    types = get_args(annotation)
    return next(each for each in types if each is not NoneType) if NoneType in types else annotation
