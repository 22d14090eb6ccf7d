"""The LoRAs of an image, as the page has them: for each a name to search for, and a weight."""

import json
import re
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from deployments.nested_requests import LoraRequest
from gradio_ingress.rows_control import Rows
from gradio_ingress.scalar_controls import OPEN, element_id
from models.model_card import AdapterCard, ModelCard

NAME, WEIGHT = "name", "weight"
GREATEST_WEIGHT = 2.0  # that the slider offers, either way; the API takes more
SHOWN_WORDS = 4  # trigger words of a LoRA in the list
REMOVED = json.dumps([OPEN, 1.0])  # name and weight of an empty row


class LoraControl(Rows):
    """Rows of a list of names and a slider. A row without a name is left out."""

    def __init__(self, name: str, field: FieldInfo) -> None:
        super().__init__(name, field, LoraRequest)

    def create(self) -> dict[str, Component]:
        """Return the components; `fit` adds the names."""
        created: dict[str, Component] = {}
        with gr.Column(elem_id=self._name, elem_classes="nested"):
            for row in self._rows:
                name, weight = f"{row}.{NAME}", f"{row}.{WEIGHT}"
                with gr.Row():
                    created[name] = gr.Dropdown(
                        [("None", OPEN)],
                        value=OPEN,
                        label=self.label(name),
                        allow_custom_value=True,  # of a file that has gone: the service says so
                        elem_id=element_id(name),
                    )
                    created[weight] = gr.Slider(
                        -GREATEST_WEIGHT,
                        GREATEST_WEIGHT,
                        1.0,
                        step=0.05,
                        label=self.label(weight),
                        elem_id=element_id(weight),
                        buttons=[],
                    )
                    remove = gr.Button("Remove", elem_classes="remove", size="sm", min_width=72, scale=0)
                outputs: list[Any] = [created[name], created[weight]]
                remove.click(fn=None, outputs=outputs, js=f"() => {REMOVED}", api_visibility="private")
        return created

    def fit(self, card: ModelCard) -> dict[str, dict[str, Any]]:
        """Return the updates that empty the rows and offer a model's LoRAs."""
        usable = [adapter for adapter in card.adapters or () if adapter.problem is None]
        choices = [("None", OPEN), *((_shown(adapter), adapter.name) for adapter in usable)]
        names = {f"{row}.{NAME}": gr.update(choices=choices, value=OPEN) for row in self._rows}
        return names | {f"{row}.{WEIGHT}": gr.update(value=1.0) for row in self._rows}

    def label(self, path: str) -> str:
        """Return the words of the field, or of a member: `LoRA 2, weight`."""
        found = re.fullmatch(r".*\[(\d+)\]\.?(.*)", path)
        if found is None:
            return "LoRAs"
        number = f"LoRA {int(found[1]) + 1}"
        return f"{number}, weight" if found[2] == WEIGHT else number

    def is_offered(self, card: ModelCard) -> bool:
        """Return whether a model has a folder of LoRAs, which may be empty now."""
        return card.adapters is not None


def _shown(adapter: AdapterCard) -> str:
    """Return a LoRA as the list has it: its name and what its file says of it, so that each is found."""
    title = adapter.title if adapter.title != adapter.name else ""
    words = ", ".join(adapter.trigger_words[:SHOWN_WORDS])
    return " · ".join(part for part in (adapter.name, title, adapter.base, words) if part)
