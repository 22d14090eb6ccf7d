"""The control of nested objects whose members are plain values: a row of plain controls for each object."""

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gradio_ingress import scalar_controls
from gradio_ingress.nested_control import NestedControl
from gradio_ingress.scalar_controls import MissingControl
from models.model_card import ModelCard


class Rows(NestedControl):
    """A row of plain controls for each object. A row whose required members are all empty is left out.

    The rows of a list are as many as its `max_length`. An error's index counts the rows that are not empty.

    Raises:
        MissingControl: a member is no plain value, none is required, or a list has no greatest length.
    """

    def __init__(self, name: str, field: FieldInfo, kind: type[BaseModel]) -> None:
        self._name, self._field, self._members = name, field, kind.model_fields
        self._required = [
            member for member, of in self._members.items() if of.is_required() and of.annotation is not bool
        ]
        self._is_list = scalar_controls.plain(field) is not kind
        length = next((bound.max_length for bound in field.metadata if hasattr(bound, "max_length")), None)
        self._rows = [f"{name}[{row}]" for row in range(length or 0)] if self._is_list else [name]
        if not self._required or not self._rows:
            reason = "no member is required, so that no row is ever empty" if self._rows else "it has no max_length"
            raise MissingControl(
                f"{name} of GenerationRequest holds {kind.__name__}, whose rows the page cannot generate: {reason}. "
                "Register a control in gradio_ingress.nested_controls.CONTROLS."
            )
        for member, of in self._members.items():
            scalar_controls.kind(f"{name}.{member}", of)

    def create(self) -> dict[str, Component]:
        """Return the components, below the field's description."""
        with gr.Column(elem_id=self._name, elem_classes="nested"):
            gr.HTML(f"<p>{escape(self._field.description or '')}</p>", padding=False, js_on_load=None)
            created: dict[str, Component] = {}
            for row in self._rows:
                with gr.Row():
                    for member, of in self._members.items():
                        created[f"{row}.{member}"] = scalar_controls.create(f"{row}.{member}", of)
        return created

    def fit(self, card: ModelCard) -> dict[str, dict[str, Any]]:
        """Return the updates that empty the rows and fit them to a model."""
        return {
            f"{row}.{member}": gr.update(**scalar_controls.properties(f"{row}.{member}", of, card))
            for row in self._rows
            for member, of in self._members.items()
        }

    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the objects of the rows that are not empty; an empty control leaves its member out."""
        rows = [{member: values[f"{row}.{member}"] for member in self._members} for row in self._rows]
        given = [{member: value for member, value in row.items() if value not in (None, "")} for row in rows]
        found = [row for row in given if any(member in row for member in self._required)]
        return (found if self._is_list else found[0]) if found else None

    def write(self, data: Any) -> dict[str, Any]:
        """Return the values of the rows; what an object leaves out has its member's default."""
        objects = [] if data is None else data if self._is_list else [data]
        return {
            f"{row}.{member}": given.get(member, scalar_controls.properties(f"{row}.{member}", of)["value"])
            for row, given in zip(self._rows, [*objects, *[{}] * len(self._rows)], strict=False)
            for member, of in self._members.items()
        }
