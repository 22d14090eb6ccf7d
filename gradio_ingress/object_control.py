"""The control of one nested object: a control for each of its members, with words for people."""

from collections.abc import Mapping
from typing import Any, ClassVar

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gradio_ingress import scalar_controls
from gradio_ingress.nested_control import NestedControl
from models.model_card import ModelCard


class ObjectControl(NestedControl):
    """The members of one object. Subclasses say when there is one."""

    kind: ClassVar[type[BaseModel]]
    labels: ClassVar[Mapping[str, str]] = {}  # of members, where their names will not do; that of the field is under ""
    infos: ClassVar[Mapping[str, str]] = {}  # where the words of the schema are for programs
    defaults: ClassVar[Mapping[str, Any]] = {}  # where the page's are others than the schema's

    def __init__(self, name: str, field: FieldInfo) -> None:
        self._name = name
        self._members = self.kind.model_fields

    def create(self) -> dict[str, Component]:
        """Return a component for each member."""
        created: dict[str, Component] = {}
        for member, of in self._members.items():
            path = self._path(member)
            looks = {"label": self.label(path), "info": self.infos.get(member, of.description)} | self._looks(member)
            created[path] = scalar_controls.create(path, of, **looks)
        return created

    def fit(self, card: ModelCard) -> dict[str, dict[str, Any]]:
        """Return the updates that give the components a model's bounds and values."""
        return {
            self._path(member): gr.update(
                **scalar_controls.properties(self._path(member), of, card) | {"value": self._default(member, card)}
            )
            for member, of in self._members.items()
        }

    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the members that are filled in."""
        return self._sent({member: values[self._path(member)] for member in self._members})

    def write(self, data: Any) -> dict[str, Any]:
        """Return the values of the components. What is left out has its default."""
        given = self._sent(data or {})
        return {
            self._path(member): given[member] if member in given else self._default(member) for member in self._members
        }

    def label(self, path: str) -> str:
        """Return the words of the field, or of a member."""
        member = path.removeprefix(self._name).removeprefix(".")
        return self.labels.get(member) or scalar_controls.label(member)

    def _looks(self, member: str) -> dict[str, Any]:
        """What a member's component is made with besides its words."""
        return {}

    def _sent(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """Return the members that a request has."""
        return {member: value for member, value in members.items() if value not in (None, "")}

    def _path(self, member: str) -> str:
        return f"{self._name}.{member}"

    def _default(self, member: str, card: ModelCard | None = None) -> Any:
        shown = scalar_controls.properties(self._path(member), self._members[member], card)["value"]
        return self.defaults.get(member, shown)
