"""Settings of an image or a file, as the form takes them back. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from deployments.prompt_syntax import unread_syntax
from deployments.resolution import request_data
from gradio_ingress import controls, status
from gradio_ingress.layout import card_of
from gradio_ingress.restored_files import with_served_files
from models.model_card import ModelCard, find_card
from models.spec import ImageSpec


def settings_of(spec: ImageSpec, num_images: int = 1) -> dict[str, Any]:
    """Return the fields of the form for an image, or so many. A style's words are in the prompt already."""
    shown = {name: value for name, value in request_data(spec).items() if name in controls.FIELDS}
    return shown | {"style": controls.OPEN, "num_images": min(num_images, controls.greatest("num_images"))}


def settings_here(spec: ImageSpec, cards: Sequence[ModelCard], num_images: int = 1) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of the form for an image, and notes on adapter files that are missing or others here."""
    return with_served_files(settings_of(spec, num_images), asdict(spec), card_of(cards, spec.model))


def usable(cards: Sequence[ModelCard], data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings that their model allows, or the first one where theirs is not served, and notes on others."""
    model = data.get("model")
    card = card_of(cards, model)
    kept, refused = controls.usable(data, card)
    notes = [] if find_card(cards, model) else [status.not_served(model)]
    syntax = kept.get("prompt_syntax") or card.defaults.get("prompt_syntax", "plain")
    for name in ("prompt", "negative_prompt"):
        notes += unread_syntax(kept.get(name) or "", syntax, name)
    return kept, [*notes, status.left_out(refused)] if refused else notes
