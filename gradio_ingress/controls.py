"""One mapping: a field of `GenerationRequest`, as the chosen model allows it, to a control of the page.

A field's words and bounds are in the schema, what the model prefers is on its card; nothing of either is repeated here.
"""

import math
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from deployments import styles
from deployments.schema import GenerationRequest, read_request, resolve
from models.errors import InvalidRequest
from models.parameters import SAMPLER_NAMES
from models.spec import ModelCard

FIELDS: Mapping[str, FieldInfo] = {
    name: field
    for name, field in GenerationRequest.model_fields.items()
    if not isinstance(field.json_schema_extra, dict) or field.json_schema_extra.get("page", True)
}
FORMAT_NAMES = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP"}
NAMES = SAMPLER_NAMES | FORMAT_NAMES | {name: style.label for name, style in styles.STYLES.items()}
SHAPES = ((1, 1), (4, 3), (3, 4), (16, 9), (9, 16))  # width to height
OPEN = ""  # the choice that leaves a field out


def label(name: str) -> str:
    """Return a field's name as people read it."""
    return name.removeprefix("num_").replace("_", " ").capitalize()


def create(name: str, **looks: Any) -> Component:
    """Return the control of a field as the schema alone describes it; `fit` adds what a model says."""
    kind = _kind(name)
    words: dict[str, Any] = {"label": label(name), "info": FIELDS[name].description, "elem_id": name}
    buttons: dict[str, Any] = {"buttons": []} if kind is gr.Slider else {}  # its reset button knows no model
    return kind(**words | buttons | properties(name) | looks)


def fit(name: str, card: ModelCard, served: Sequence[str] = ()) -> dict[str, Any]:
    """Return the update that fits a control to a model; `served` are the ids of all models."""
    shown = properties(name, card, served)
    if name == "seed":
        del shown["value"]  # the box keeps the seed that was used last
    return gr.update(**shown)


def fill(example: Mapping[str, Any], card: ModelCard) -> dict[str, Any]:
    """Return the value of each control that an example stands for; what it leaves open is as the model prefers."""
    return {
        name: example.get(name, properties(name, card)["value"]) for name in FIELDS if name not in ("model", "seed")
    }


def chosen(values: Mapping[str, Any], card: ModelCard, served: Sequence[ModelCard]) -> list[str]:
    """Return the controls whose values somebody chose, being no served model's default, and that a model allows."""
    return [
        name
        for name, value in values.items()
        if all(value != properties(name, each)["value"] for each in served) and _allows(name, value, card)
    ]


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
    return _bounds(name, None)[1]


def to_request(values: Mapping[str, Any]) -> GenerationRequest:
    """Return the request that controls show; an optional one that is empty is left out.

    Raises:
        InvalidRequest: naming the control and its bound.
    """
    given = {k: v for k, v in values.items() if v is not None and (v != OPEN or _kind(k) is not gr.Dropdown)}
    try:
        request = read_request(given)
    except InvalidRequest as error:
        raise InvalidRequest(in_page_words(error.message, error.param), error.param) from None
    for name, field in FIELDS.items():
        most, value = _extra(field).get("page_maximum"), getattr(request, name)
        if most is not None and value > most:
            raise InvalidRequest(f"{label(name)} must be {most} or less on this page, got {value}.", name)
    return request


def usable(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return those of the values that the schema allows, and why the others are not among them."""
    kept, refused = dict(values), []
    while True:
        try:
            to_request(kept)
        except InvalidRequest as error:
            if error.param not in kept:  # what is missing, people will type
                return kept, refused
            del kept[error.param]
            refused.append(error.message)
        else:
            return kept, refused


def in_page_words(message: str, name: str | None) -> str:
    """Return a message that begins with a field's name with the label of its control instead."""
    if name is None or name not in FIELDS or not message.startswith(name):
        return message
    return label(name) + message.removeprefix(name)


def properties(name: str, card: ModelCard | None = None, served: Sequence[str] = ()) -> dict[str, Any]:
    """Return value, bounds and choices of a control, and whether there is anything to choose."""
    field = FIELDS[name]
    kind = _kind(name)
    value = None if field.is_required() else field.default
    if card is not None:
        value = card.defaults.get(name, value)
    elif value is None and kind is gr.Slider:  # the model's, and there is none yet
        value = _bounds(name, None)[0]
    if kind is gr.Dropdown:
        choices = _choices(name, card, served)
        if name == "model":
            value = card.id if card else None
        elif value is None and not _has_default(name):
            value = OPEN
        return {"choices": choices, "value": value, "visible": len(choices) > 1}
    if kind is gr.Slider:
        low, high = _bounds(name, card)
        if low == high:
            return {"value": value, "visible": False}  # Gradio has no slider with one place
        return {"value": value, "minimum": low, "maximum": high, "step": _step(name, card), "visible": True}
    if kind is gr.Number:
        low, high = _bounds(name, card)
        return {"value": value, "minimum": low, "maximum": high, "precision": 0 if plain(field) is int else None}
    return {"value": value}


def plain(field: FieldInfo) -> Any:
    """Return a field's type, without the None of an optional one."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    return kinds[0] if NoneType in get_args(field.annotation) else field.annotation


def _has_default(name: str) -> bool:
    """Whether a field that is left out has a value: its own or the model's."""
    return FIELDS[name].default is not None or _extra(FIELDS[name]).get("default_of") == "model"


def _kind(name: str) -> type[Component]:
    """An optional number is a box, as no place on a slider means that it is open."""
    field = FIELDS[name]
    kind = plain(field)
    if name == "model" or get_origin(kind) is Literal:
        return gr.Dropdown
    if kind is bool:
        return gr.Checkbox
    if kind in (int, float):
        return gr.Slider if _has_default(name) and None not in _bounds(name, None) else gr.Number
    return gr.Textbox


def _choices(name: str, card: ModelCard | None, served: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of what is shown and what is sent."""
    if name == "model":
        return [(model, model) for model in served or ([card.id] if card else [])]
    allowed = {"style": card.styles, "sampler": card.samplers}.get(name) if card else None
    found = [(NAMES.get(choice, label(choice)), choice) for choice in allowed or get_args(plain(FIELDS[name]))]
    return found if _has_default(name) else [("None", OPEN), *found]


def _bounds(name: str, card: ModelCard | None) -> tuple[Any, Any]:
    """Least and greatest value that the page offers; None where there is no such bound."""
    field = FIELDS[name]
    low = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in field.metadata if hasattr(bound, "le")), None)
    high = _extra(field).get("page_maximum", high)
    return card.bounds.get(name, (low, high)) if card else (low, high)


def _within(name: str, value: int, card: ModelCard) -> bool:
    low, high = _bounds(name, card)
    return low <= value <= high


def _allows(name: str, value: Any, card: ModelCard) -> bool:
    choices = properties(name, card).get("choices")
    if choices is not None and value not in [choice for _, choice in choices]:
        return False
    try:
        resolve(to_request({"prompt": "anything", name: value}), card)
    except InvalidRequest:
        return False
    return True


def _step(name: str, card: ModelCard | None) -> float:
    if card and name in ("width", "height"):
        return card.size_multiple
    return _extra(FIELDS[name]).get("step", 1 if plain(FIELDS[name]) is int else 0.1)


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
