"""The second pass at a higher resolution, as the page has it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import gradio as gr
from gradio.components import Component

from deployments.nested_requests import HiresRequest
from gradio_ingress.object_control import ObjectControl
from gradio_ingress.scalar_controls import element_id
from models.errors import InvalidRequest
from models.hires import check_scale
from models.model_card import ModelCard
from models.parameters import MAX_SIDE

SCALES = (2.0, 1.5, 1.25)  # of which a model prefers the first that it allows


class HiresControl(ObjectControl):
    """A switch, whose path is the field's own, and the members of the object."""

    kind = HiresRequest
    labels: ClassVar[Mapping[str, str]] = {
        "": "Higher resolution",
        "strength": "Strength of the second pass",
        "steps": "Steps of the second pass",
    }
    infos: ClassVar[Mapping[str, str]] = {
        "scale": "How many times as wide and as high the picture becomes.",
        "steps": "Left out: as many as in the first.",
    }

    def create(self) -> dict[str, Component]:
        """Return the switch and a component for each member."""
        info = "A second pass, which begins with the first one's picture and makes it larger."
        switch = gr.Checkbox(False, label="Second pass", info=info, elem_id=element_id(self._name))
        return {self._name: switch} | super().create()

    def fit(self, card: ModelCard) -> dict[str, dict[str, Any]]:
        """Return the updates that turn the switch off and give the members the model's values."""
        return {self._name: gr.update(value=False)} | super().fit(card)

    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the members while the switch is on."""
        return super().read(values) if values[self._name] else None

    def write(self, data: Any) -> dict[str, Any]:
        """Return the values of switch and members."""
        return {self._name: data is not None} | super().write(data)

    def is_offered(self, card: ModelCard) -> bool:
        """Return whether a model can enlarge the pictures of its own size."""
        return _scale(card) is not None

    def _default(self, member: str, card: ModelCard | None = None) -> Any:
        if member == "scale":
            return (_scale(card) if card else None) or SCALES[0]
        return super()._default(member, card)


def _scale(card: ModelCard) -> float | None:
    """Return the scale that a model prefers; None if it has no larger size than its own."""
    size = card.defaults["width"], card.defaults["height"]
    largest = [min(MAX_SIDE, card.bounds.get(side, (0, MAX_SIDE))[1]) for side in ("width", "height")]
    for scale in SCALES:
        try:
            check_scale(size, scale, card.size_multiple, (largest[0], largest[1]), card.id)
        except InvalidRequest:
            continue
        return scale
    return None
