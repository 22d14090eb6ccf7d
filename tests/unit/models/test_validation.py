"""How a value that is refused is named, and what it must be."""

from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core.core_schema import ErrorType

from models.validation import RULES, Matching, field_of, first_problem


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Matching("[a-z]*", "lower-case letters")] = Field(min_length=2, max_length=4)
    weight: float = Field(1.0, gt=0, lt=2, allow_inf_nan=False)
    count: int = Field(1, ge=1, le=9)
    kind: Literal["low", "high"] = "low"
    on: bool = False


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first: Part | None = None
    parts: list[Part] = Field([], min_length=1, max_length=2)
    either: Literal["a"] | Part | None = None


PART = {"name": "ab"}


def problem(value: Any, kind: Any = Whole) -> tuple[str, str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    return first_problem(caught.value.errors())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"first": {}}, "first.name is required."),
        ({"first": {"name": "ab", "weight": 2}}, "first.weight must be less than 2, got 2."),
        ({"parts": [PART, {"name": "ab", "count": 10}]}, "parts[1].count must be 9 or less, got 10."),
        ({"parts": [PART | {"wieght": 1}]}, "parts[0].wieght is not a known field."),
        ({"parts": [PART | {"a b[": 1}]}, "parts[0].a b[ is not a known field."),
        ({"parts": ["ab"]}, "parts[0] must be an object, got 'ab'."),
        ({"parts": {}}, "parts must be a list."),
        ({"parts": [PART] * 3}, "parts must have 2 or fewer items."),
        ({"parts": []}, "parts must have 1 or more items."),
        ({"first": {"name": "abcde"}}, "first.name must have 4 or fewer characters, got 'abcde'."),
        ({"first": {"name": "a"}}, "first.name must have 2 or more characters, got 'a'."),
        ({"first": {"name": "AB"}}, "first.name must be lower-case letters, got 'AB'."),
        ({"first": {"name": 1}}, "first.name must be text, got 1."),
        ({"first": PART | {"weight": float("nan")}}, "first.weight must be a finite number, got nan."),
        ({"first": PART | {"weight": "x"}}, "first.weight must be a number, got 'x'."),
        ({"first": PART | {"weight": 0}}, "first.weight must be more than 0, got 0."),
        ({"first": PART | {"count": 1.5}}, "first.count must be an integer, got 1.5."),
        ({"first": PART | {"kind": "mid"}}, "first.kind must be 'low' or 'high', got 'mid'."),
        ({"first": PART | {"on": 2}}, "first.on must be true or false, got 2."),
        ({"first": {"name": True}}, "first.name must be text, got true."),
        ([], "body must be an object."),
    ],
)
def test_a_refused_value_is_named_by_the_path_that_was_sent(value: Any, message: str) -> None:
    path, said = problem(value)
    assert said == message
    assert message.startswith(f"{path} ")


def test_the_branch_of_a_union_is_no_part_of_a_path() -> None:
    assert problem({"either": "b"})[0] == "either"


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (("body", "loras", 0, "weight"), "loras[0].weight"),
        (("body", "parameters"), "parameters"),
        (("body", "parameters", "parameters"), "parameters"),
        (("body", "parameters", "width"), "width"),
        (("header", "idempotency-key"), "idempotency-key"),
        (("body", "init", "path"), "init.path"),
        (("body",), "body"),
        ((), "body"),
    ],
)
def test_what_a_request_is_wrapped_in_is_no_part_of_a_path(location: tuple[Any, ...], path: str) -> None:
    assert first_problem([{"loc": location, "type": "missing", "msg": ""}])[0] == path


def test_a_path_begins_with_a_field() -> None:
    assert [field_of(path) for path in ("loras[0].weight", "init.strength", "seed")] == ["loras", "init", "seed"]


def test_no_text_of_pydantics_is_shown_where_no_rule_of_ours_is_known() -> None:
    error = {"loc": ("body", "seed"), "type": "multiple_of", "msg": "Input should be a multiple of 8", "input": 3}
    assert first_problem([error]) == ("seed", "seed has a value that is not allowed, got 3.")


def test_the_pattern_of_a_text_is_in_its_json_schema() -> None:
    assert Part.model_json_schema()["properties"]["name"]["pattern"] == "^([a-z]*)$"


def test_each_rule_is_of_an_error_that_pydantic_knows() -> None:
    assert set(RULES) <= set(get_args(ErrorType))


def test_an_unknown_field_comes_before_a_required_one_which_it_may_be() -> None:
    missing, unknown = ({"loc": (name,), "type": kind} for name, kind in (("b", "missing"), ("B", "extra_forbidden")))
    wrong = {"loc": ("a",), "type": "int_type"}
    assert first_problem([missing, wrong, unknown]) == ("B", "B is not a known field.")
    assert first_problem([missing, wrong]) == ("b", "b is required.")
    assert first_problem([wrong, missing, unknown])[0] == "a"
