"""What the page looks up of a model's adapter files while somebody fills in the form."""

from typing import Any

import gradio as gr

from deployments.dispatcher.client import DispatcherClient
from gradio_ingress import adapter_files
from gradio_ingress.layout import Layout, Update, card_of
from gradio_ingress.lookups import served_models


class AdapterEvents:
    """Shows the files that a model has now, and the trigger words of those that are chosen."""

    def __init__(self, client: DispatcherClient, parts: Layout) -> None:
        self._client = client
        self._parts = parts

    def connect(self, **options: Any) -> None:
        """Add the listeners, with these options, to the Blocks that are open."""
        parts, ui = self._parts, self._parts.controls
        names: list[Any] = parts.lora_names
        model: Any = ui["model"]
        syntax: Any = ui["prompt_syntax"]
        chosen = [*(name.change for name in names), model.change, syntax.change]
        gr.on(chosen, self.on_loras, {*names, model, syntax}, parts.words, **options)
        boxes: list[Any] = [parts.sections["loras"], parts.embeddings_box, parts.unusable_box]
        gr.on([box.expand for box in boxes], self.on_files, model, [*names, *parts.of_files], **options)

    async def on_loras(self, given: Update) -> str:
        """Offer the trigger words of the LoRAs that are chosen."""
        ui = self._parts.controls
        card = card_of(await served_models(self._client), given[ui["model"]])
        names = {given[name] for name in self._parts.lora_names}
        return adapter_files.trigger_words(card, names, given[ui["prompt_syntax"]] or "plain")

    async def on_files(self, model: str | None) -> Update:
        """Show the files that the model has now: new ones come, and others go, without a restart."""
        return self._parts.with_files(card_of(await served_models(self._client), model))
