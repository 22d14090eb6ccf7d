"""The controls of nested objects: one registry, by the type of a field's objects.

`CONTROLS` has those that a person designed. Every other type gets `Rows`, which suits members that are plain values.
"""

from collections.abc import Callable

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.nested_requests import HiresRequest, InitRequest, LoraRequest
from deployments.schema import nested_type
from gradio_ingress.hires_control import HiresControl
from gradio_ingress.init_control import InitControl
from gradio_ingress.lora_control import LoraControl
from gradio_ingress.nested_control import NestedControl
from gradio_ingress.rows_control import Rows

CONTROLS: dict[type[BaseModel], Callable[[str, FieldInfo], NestedControl]] = {
    InitRequest: InitControl,
    HiresRequest: HiresControl,
    LoraRequest: LoraControl,
}


def nested_control(name: str, field: FieldInfo) -> NestedControl | None:
    """Return the control of a field that holds nested objects, None for any other.

    Raises:
        MissingControl: none is registered for the field's type, and rows do not suit it.
    """
    kind = nested_type(field.annotation)
    if kind is None:
        return None
    return CONTROLS[kind](name, field) if kind in CONTROLS else Rows(name, field, kind)
