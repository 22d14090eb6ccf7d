"""The form: one mapping of the fields of `GenerationRequest`, as the chosen model allows them, to controls and back.

Controls and their values go by path: a field's name, or `loras[0].weight` for a member of a nested object. Request data
goes by field, as the API has it.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from deployments import styles
from deployments.request_errors import read_request
from deployments.resolution import resolve, styled
from deployments.schema import GenerationRequest, nested_type
from gradio_ingress import scalar_controls
from gradio_ingress.nested_control import NestedControl
from gradio_ingress.nested_controls import CONTROLS, nested_control
from gradio_ingress.scalar_controls import OPEN, bounds, kind, schema_extra
from models.errors import InvalidRequest
from models.model_card import ModelCard
from models.parameters import SAMPLER_NAMES
from models.validation import field_of

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

FIELDS: Mapping[str, FieldInfo] = {
    name: field for name, field in GenerationRequest.model_fields.items() if schema_extra(field).get("page", True)
}
TEXTS = ("prompt", "negative_prompt")
SHAPES = ((1, 1), (4, 3), (3, 4), (16, 9), (9, 16))  # width to height


PAGE_NAMES = {name: scalar_controls.label(name) for name in FIELDS if "_" in name} | {
    name: shown
    for name, shown in SAMPLER_NAMES.items()
    if name != "default"  # which is a word of any message
}
NAMED = re.compile(rf"“[^”]*”|\"[^\"]*\"|\b(?:{'|'.join(sorted(PAGE_NAMES, key=len, reverse=True))})\b")
WARNED = re.compile(r"[\w.\[\]]+(?=: | has no effect )")


def check_controls() -> None:
    """Check that each field has a control.

    Raises:
        MissingControl: naming the field, and what to do.
    """
    for name, field in FIELDS.items():
        if nested_control(name, field) is None:
            kind(name, field)


check_controls()  # at start, and not when somebody opens the page


def label(path: str) -> str:
    """Return what people read in place of a path."""
    nested = _nested(field_of(path)) if field_of(path) in FIELDS else None
    return nested.label(path) if nested else scalar_controls.label(path)


def is_section(name: str) -> bool:
    """Return whether a field has a section of its own on the page: a person designed its control."""
    return nested_type(FIELDS[name].annotation) in CONTROLS


def section(name: str, card: ModelCard) -> dict[str, Any]:
    """Return the update of a field's section: hidden if it means nothing to a model, opened if the model needs it."""
    nested = _nested(name)
    assert nested is not None, "sections are of nested fields"
    shown = gr.update(visible=nested.is_offered(card))
    return shown | {"open": True} if nested.is_needed(card) else shown


def create(name: str, **looks: Any) -> dict[str, Component]:
    """Return the controls of a field as the schema alone describes it; `fit` adds what a model says."""
    nested = _nested(name)
    return nested.create() if nested else {name: scalar_controls.create(name, FIELDS[name], **looks)}


def fit(name: str, card: ModelCard, served: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the updates that fit a field's controls to a model; `served` are the ids of all models."""
    if nested := _nested(name):
        return nested.fit(card)
    shown = scalar_controls.properties(name, FIELDS[name], card, served)
    if name == "seed":
        del shown["value"]  # the box keeps the seed that was used last
    return {name: gr.update(**shown)}


def examples(card: ModelCard) -> list[dict[str, Any]]:
    """Return the request data of a model's examples, with the words of their styles in their prompts.

    So the form keeps its own style, and its prompt says all of what is generated. Examples that are no requests for the
    model are left out.
    """
    found = []
    for example in card.examples:
        try:
            request = read_request(example)
            prompt, negative_prompt = styled(request, card)
        except InvalidRequest as error:
            _warn_of_example(card.id, error.message)
            continue
        data = request.model_dump(exclude_unset=True, exclude={"style", "model", "num_images"}) | {"prompt": prompt}
        found.append(data if request.style is None else data | {"negative_prompt": negative_prompt})
    return found


@lru_cache(maxsize=256)
def _warn_of_example(model: str, problem: str) -> None:
    """Log once, and not at each page load, that an example is left out."""
    logger.warning("an example of %s is left out: %s", model, problem)


def read(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request data that the values of controls mean. A field whose control is not among them is left out."""
    data: dict[str, Any] = {}
    for name in dict.fromkeys(field_of(path) for path in values):
        nested = _nested(name)
        data[name] = nested.read(values) if nested else values[name]
    return data


def write(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of controls, by path, for request data."""
    values: dict[str, Any] = {}
    for name, value in data.items():
        nested = _nested(name)
        values |= nested.write(value) if nested else {name: value}
    return values


def chosen(data: Mapping[str, Any], card: ModelCard, served: Sequence[ModelCard]) -> tuple[list[str], list[str]]:
    """Return the fields whose values somebody chose and a model allows, and why it does not allow others.

    A value that is a served model's default was not chosen. The model itself is not among the fields.
    """
    kept, refused = [], []
    for name, value in data.items():
        if name == "model" or any(value == default(name, each) for each in served):
            continue
        try:
            resolve(to_request({"prompt": "anything", name: value}), card)
        except InvalidRequest as error:
            if error.param not in card.requires:  # which the form may have
                refused.append(in_page_words(error.message, error.param))
                continue
        kept.append(name)
    return kept, refused


def default(name: str, card: ModelCard) -> Any:
    """Return the request data of a field that nobody filled in."""
    return None if _nested(name) else scalar_controls.properties(name, FIELDS[name], card)["value"]


def aspects(card: ModelCard) -> dict[str, tuple[int, int]]:
    """Return width and height of each shape that a model can draw, of about the area that it prefers.

    Empty where it draws one shape alone.
    """
    area, multiple = card.defaults["width"] * card.defaults["height"], card.size_multiple
    found = {}
    for wide, high in SHAPES:
        width = round(math.sqrt(area * wide / high) / multiple) * multiple
        height = round(math.sqrt(area * high / wide) / multiple) * multiple
        if _within("width", width, card) and _within("height", height, card):
            found[f"{wide}:{high}"] = width, height
    return found if len(set(found.values())) > 1 else {}


def style_info(style: str | None) -> str:
    """Return what a style does to a prompt, in its own words; without a style, what styles are."""
    chosen = styles.STYLES.get(style)  # type: ignore[call-overload]
    if chosen is None:
        return FIELDS["style"].description or ""
    without = f"; not: {chosen.negative_prompt}" if chosen.negative_prompt else ""
    return f"The model reads: {chosen.prompt.replace('{prompt}', '…')}{without}"


def greatest(name: str) -> Any:
    """Return the greatest value that the page offers of a field, whatever the model."""
    return bounds(name, FIELDS[name])[1]


def to_request(data: Mapping[str, Any], card: ModelCard | None = None) -> GenerationRequest:
    """Return the request of the form's data for a model; an optional field that is empty is left out.

    Raises:
        InvalidRequest: naming the control and its bound.
    """
    given = {name: value for name, value in data.items() if value is not None and not _is_open(name, value)}
    for name, value in given.items():  # first, so that there is one bound of each on the page
        most = schema_extra(FIELDS[name]).get("page_maximum") if name in FIELDS else None
        if most is not None and isinstance(value, int | float) and value > most:
            raise InvalidRequest(f"{label(name)} must be {most} or less on this page, got {value}.", name)
    try:
        return read_request(given, card)
    except InvalidRequest as error:
        raise InvalidRequest(in_page_words(error.message, error.param), error.param) from None


def usable(data: Mapping[str, Any], card: ModelCard) -> tuple[dict[str, Any], list[str]]:
    """Return those of the data that the schema and a model allow, and why the others are not among them.

    A text that the model refuses, such as one that names an embedding that it lacks, is kept: people wrote it, and
    Generate says what is wrong.
    """
    kept, texts, refused = dict(data), dict[str, Any](), list[str]()
    while True:
        request = None
        try:
            request = to_request({"prompt": "anything"} | kept, card)
            resolve(request, card)
        except InvalidRequest as error:
            field = field_of(error.param or "")
            if request is not None and field in TEXTS and field in kept:
                texts[field] = kept.pop(field)
                continue
            if error.param in card.requires and field not in kept:
                return kept | texts, refused  # the form says what it needs
            refused.append(in_page_words(error.message, error.param))
            if field not in kept:  # the model's own value does not go with one that is kept
                return kept | texts, refused
            del kept[field]
        else:
            return kept | texts, refused


def in_page_words(message: str, path: str | None) -> str:
    """Return a message with labels in place of the path of a value, with which it begins, and of fields and samplers
    that it names. What it quotes stays.
    """
    begins = path is not None and field_of(path) in FIELDS and message.startswith(path)
    said, rest = (label(path), message.removeprefix(path)) if path and begins else ("", message)
    return said + NAMED.sub(lambda found: PAGE_NAMES.get(found[0], found[0]), rest)


def warning_in_page_words(warning: str) -> str:
    """Return a warning, which may begin with the path of a value, as `in_page_words` returns a message."""
    path = WARNED.match(warning)
    return in_page_words(warning, path[0] if path else None)


def _nested(name: str) -> NestedControl | None:
    return nested_control(name, FIELDS[name])


def _is_open(name: str, value: Any) -> bool:
    """Whether a value is the choice that leaves a field out."""
    return value == OPEN and name in FIELDS and not _nested(name) and kind(name, FIELDS[name]) is gr.Dropdown


def _within(name: str, value: int, card: ModelCard) -> bool:
    low, high = bounds(name, FIELDS[name], card)
    return low <= value <= high


def is_typed(prompt: str | None, examples: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether somebody typed a prompt: it is not empty, and no example's."""
    return bool(prompt and prompt.strip()) and prompt not in [each["prompt"] for each in examples]
