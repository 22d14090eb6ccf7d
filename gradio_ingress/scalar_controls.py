"""The control of one plain value: a field of `GenerationRequest`, or a member of a nested object.

Words and bounds are in the schema, what the model prefers is on its card; nothing of either is repeated here. A control
is named by the path to its value, as `seed` or `loras[0].weight`.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from deployments import styles
from deployments.nested_requests import IMAGE_FORMAT
from deployments.request_body import plain_type
from gradio_ingress import image_input
from models.model_card import ModelCard
from models.parameters import SAMPLER_NAMES

FORMAT_NAMES = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP"}
NAMES = SAMPLER_NAMES | FORMAT_NAMES | {name: style.label for name, style in styles.STYLES.items()}
OPEN = ""  # the choice that leaves a value out


class MissingControl(TypeError):
    """A field of the schema has no control on the page: which one, and what to do."""


def label(path: str) -> str:
    """Return a path as people read it: `Inference steps`, `Loras, weight 1`."""
    field, *rest = [part.removeprefix("num_").replace("_", " ") for part in re.findall(r"[^.\[\]]+", path)]
    number = f" {int(rest.pop(0)) + 1}" if rest and rest[0].isdigit() else ""
    return ", ".join([field.capitalize(), *rest]) + number


def element_id(path: str) -> str:
    """Return the id of a control's HTML element."""
    return re.sub(r"[.\[\]]+", "-", path).strip("-")


def create(path: str, field: FieldInfo, **looks: Any) -> Component:
    """Return the control of a value as the schema alone describes it."""
    component = kind(path, field)
    words: dict[str, Any] = {"label": label(path), "info": field.description, "elem_id": element_id(path)}
    buttons: dict[str, Any] = {"buttons": []} if component is gr.Slider else {}  # its reset button knows no model
    make = image_input.create if component is gr.HTML else component
    return make(**words | buttons | properties(path, field) | looks)


def properties(path: str, field: FieldInfo, card: ModelCard | None = None, served: Sequence[str] = ()) -> Any:
    """Return value, bounds and choices of a control, and whether there is anything to choose."""
    component = kind(path, field)
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if card is not None:
        value = {**card.defaults, **card.member_defaults}.get(path, value)
    elif value is None and component is gr.Slider:  # the model's, and there is none yet
        value = bounds(path, field)[0]
    if component is gr.Dropdown:
        choices = _choices(path, field, card, served)
        if path == "model":
            value = card.id if card else None
        elif value is None and not _has_default(field):
            value = OPEN
        return {"choices": choices, "value": value, "visible": len(choices) > 1}
    if component is gr.Slider:
        low, high = bounds(path, field, card)
        if low == high:
            return {"value": value, "visible": False}  # Gradio has no slider with one place
        step = _step(path, field, card)
        return {"value": value, "minimum": low, "maximum": high, "step": step, "visible": True}
    if component is gr.Number:
        low, high = bounds(path, field, card)
        return {"value": value, "minimum": low, "maximum": high, "precision": 0 if plain(field) is int else None}
    return {"value": value}


def kind(path: str, field: FieldInfo) -> type[Component]:
    """Return the component of a value; `gr.HTML` is that of an image.

    An optional number is a box, as no place on a slider means that it is open.

    Raises:
        MissingControl: there is none for the field's type.
    """
    value_type = plain(field)
    if path == "model" or get_origin(value_type) is Literal:
        return gr.Dropdown
    if value_type is bool:
        return gr.Checkbox
    if value_type in (int, float):
        return gr.Slider if _has_default(field) and None not in bounds(path, field) else gr.Number
    if value_type is str:
        return gr.HTML if schema_extra(field).items() >= IMAGE_FORMAT.items() else gr.Textbox
    raise MissingControl(
        f"{path} of GenerationRequest has the type {field.annotation}, for which the page has no control. Use bool, "
        "int, float, str or a Literal; or register a control for the pydantic model that it is, or is a member of, in "
        "gradio_ingress.nested_controls.CONTROLS; or keep the field off the page with "
        'json_schema_extra={"page": False}.'
    )


def plain(field: FieldInfo) -> Any:
    """Return a field's type, without the None of an optional one."""
    return plain_type(field.annotation)


def bounds(path: str, field: FieldInfo, card: ModelCard | None = None) -> tuple[Any, Any]:
    """Return the least and the greatest value that the page offers; None where there is no such bound.

    Above a bound that is no value itself, the least one is a step higher.
    """
    low = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    for bound in field.metadata:
        if hasattr(bound, "gt") and "step" in schema_extra(field):
            low = bound.gt + schema_extra(field)["step"]
    high = next((bound.le for bound in field.metadata if hasattr(bound, "le")), None)
    high = schema_extra(field).get("page_maximum", high)
    return card.bounds.get(path, (low, high)) if card else (low, high)


def schema_extra(field: FieldInfo) -> dict[str, Any]:
    """Return what a field says besides its type and bounds."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _has_default(field: FieldInfo) -> bool:
    """Whether a value that is left out is one all the same: the field's own or the model's."""
    return (not field.is_required() and field.default is not None) or schema_extra(field).get("default_of") == "model"


def _choices(path: str, field: FieldInfo, card: ModelCard | None, served: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of what is shown and what is sent."""
    if path == "model":
        return [(model, model) for model in served or ([card.id] if card else [])]
    allowed = {"style": card.styles, "sampler": card.samplers}.get(path) if card else None
    offered = allowed or get_args(plain(field))
    found = [(NAMES.get(choice, choice.replace("_", " ").capitalize()), choice) for choice in offered]
    return found if _has_default(field) else [("None", OPEN), *found]


def _step(path: str, field: FieldInfo, card: ModelCard | None) -> float:
    if card and path in ("width", "height"):
        return card.size_multiple
    return schema_extra(field).get("step", 1 if plain(field) is int else 0.1)
