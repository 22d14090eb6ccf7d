"""What is wrong with a request or with a model's defaults, by the bounds of the model where its card is known."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from deployments.resolution import resolve
from deployments.schema import GenerationRequest
from models.errors import InvalidRequest, UnusableCheckpoint
from models.model_card import ModelCard
from models.validation import OUT_OF_BOUNDS, first_error, first_problem, plain


def read_request(
    values: Mapping[str, Any], card: ModelCard | None = None, kind: type[GenerationRequest] = GenerationRequest
) -> GenerationRequest:
    """Return the request of a kind that some values are; its errors have the bounds of `card`, if given.

    Raises:
        InvalidRequest: with the path to the value and its bound.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise request_error(first_error(error.errors()), card, values.get("sampler")) from None


def request_error(problem: Any, card: ModelCard | None = None, sampler: Any = None) -> InvalidRequest:
    """Return our error for one of pydantic's. Its bound is the model's, if the model has one, and not the schema's.

    `sampler` is the request's, as the caller sent it.
    """
    path, message = first_problem([problem])
    if card is not None and is_out_of_bounds(problem):
        chosen = sampler if sampler in card.samplers else card.defaults["sampler"]
        return card.problem(path, _number(problem["input"]), chosen) or InvalidRequest(message, path)
    return InvalidRequest(message, path)


def is_out_of_bounds(problem: Any) -> bool:
    """Whether one of pydantic's errors is about a bound of the schema, which a model may have narrower."""
    return problem["type"] in OUT_OF_BOUNDS


def _number(value: Any) -> Any:
    """Return a number that a request has as text; any other value as it is."""
    try:
        return plain(float(value)) if isinstance(value, str) else value
    except ValueError:
        return value


def default_problems(card: ModelCard) -> list[InvalidRequest]:
    """Return what keeps a request with nothing but a prompt from being generated, one problem for each field."""
    chosen = {name: value for name, value in card.defaults.items() if name not in ("width", "height")}
    sampler, found = str(card.defaults["sampler"]), list[InvalidRequest]()
    try:
        request = GenerationRequest.model_validate({"prompt": "a circle", **chosen})
    except ValidationError as error:
        request, found = None, [request_error(each, card, sampler) for each in error.errors()]
    known = {problem.param for problem in found}
    for name in card.bounded_fields:
        if name in card.defaults and name not in known:
            found += filter(None, [card.problem(name, card.defaults[name], sampler)])
    if request and not found:
        try:
            resolve(request, replace(card, requires=()))  # which no default can give
        except InvalidRequest as error:
            found.append(error)
    return found


def check_defaults(card: ModelCard) -> None:
    """Check that the model allows what a request with nothing but a prompt gets.

    Raises:
        UnusableCheckpoint: naming each field that is beyond the bounds of requests or of the model.
    """
    if found := default_problems(card):
        raise UnusableCheckpoint(f"defaults: {' '.join(problem.message for problem in found)}")
