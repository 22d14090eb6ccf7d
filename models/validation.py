"""Pydantic's errors in our words: the path that the caller sent, and what its value must be."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

ENVELOPE = ("body", "header", "query", "path", "parameters")  # where FastAPI and dialects have the fields of a request
PART = re.compile(r"[A-Za-z_][\w-]*")  # of a path; the branch of a union is none, as literal['png','jpeg']
MAX_NAME = 100  # characters; a caller may send any name
MAX_VALUE = 40  # characters; a longer value is not repeated
RULES = {  # pydantic's type of an error -> what a value must be
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "extra_forbidden": "is not a known field",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer of fewer digits",
    "int_type": "must be an integer",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is required",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "none_required": "must be left out",
    "string_too_long": "must have {max_length} or fewer characters",
    "string_too_short": "must have {min_length} or more characters",
    "string_type": "must be text",
    "string_unicode": "must be valid Unicode text",
    "too_long": "must have {max_length} or fewer items",
    "too_short": "must have {min_length} or more items",
    "tuple_type": "must be a list",
}


OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error")
UNKNOWN_RULE = "has a value that is not allowed"  # of pydantic's other types of errors


@dataclass(frozen=True)
class Matching:
    """An annotation of text that must match a pattern as a whole. Errors state the `form`, OpenAPI the pattern."""

    pattern: str
    form: str  # as in "must be WIDTHxHEIGHT"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"pattern": f"^({self.pattern})$"}

    def _check(self, text: str) -> str:
        if re.fullmatch(self.pattern, text) is None:
            raise ValueError(f"must be {self.form}")
        return text


def first_error(errors: Sequence[Any]) -> Any:
    """Return the first of pydantic's errors; of a required field and an unknown one, which may be it, the unknown."""
    unknown = (error for error in errors if error["type"] == "extra_forbidden")
    return next(unknown, errors[0]) if errors[0]["type"] == "missing" else errors[0]


def first_problem(errors: Sequence[Any]) -> tuple[str, str]:
    """Return path and message for the first of pydantic's errors, as `loras[0].weight must be 2 or less, got 3.`"""
    problem = first_error(errors)
    path, kind = _path(problem["loc"], is_unknown=problem["type"] == "extra_forbidden"), problem["type"]
    if kind in RULES:
        bounds = {name: plain(bound) for name, bound in problem.get("ctx", {}).items()}
        is_empty = kind == "string_too_short" and bounds["min_length"] == 1
        rule = "must not be empty" if is_empty else RULES[kind].format(**bounds)
    elif kind == "value_error":  # raised by a validator of ours
        rule = problem["msg"].removeprefix("Value error, ")
    else:
        rule = UNKNOWN_RULE
    shown = _shown(problem.get("input"))
    got = f", got {shown}" if 0 < len(shown) < MAX_VALUE and kind != "extra_forbidden" else ""
    return path, f"{path} {rule}{got}."


def field_of(path: str) -> str:
    """Return the field of a request that a path begins with."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _path(location: Sequence[int | str], *, is_unknown: bool) -> str:
    """Return the path to a value without the request's envelope; `body` for all of it.

    The name of an `is_unknown` field is whatever the caller sent.
    """
    parts = list(location)
    while len(parts) > 1 and parts[0] in ENVELOPE:  # the last one is the field itself, whatever its name
        parts.pop(0)
    unknown = [parts.pop()] if is_unknown and parts else []
    known = [part for part in parts if isinstance(part, int) or PART.fullmatch(part)]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in known + unknown)
    return path.removeprefix(".")[:MAX_NAME] or "body"


def _shown(value: Any) -> str:
    """A plain value as an error repeats it; empty for other values."""
    if isinstance(value, bool):
        return json.dumps(value)
    return repr(value) if isinstance(value, int | float | str) and value != "" else ""


def plain(bound: Any) -> Any:
    """A bound as people write it: 30 where pydantic has 30.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound
