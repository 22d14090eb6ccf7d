"""The settings that a picture carries: our own as JSON, else those of another tool. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from deployments.schema import nested_type
from gradio_ingress import controls
from gradio_ingress.controls import label
from gradio_ingress.image_texts import read_texts
from gradio_ingress.restored_files import with_served_files
from gradio_ingress.scalar_controls import plain
from gradio_ingress.settings_sources import automatic1111, comfyui, fooocus, invokeai, novelai, swarmui
from gradio_ingress.settings_sources.base import json_object
from models.errors import InvalidRequest
from models.families.registry import FAMILIES
from models.model_card import ModelCard, find_card
from models.spec import ImageSpec

FIELDS = tuple(name for name in controls.FIELDS if name in ImageSpec.__slots__)  # that a form has and an image keeps
CHOSEN = ("sampler", "output_format")  # from a list of ours
FINITE = ConfigDict(allow_inf_nan=False)
NESTED = frozenset(name for name in FIELDS if nested_type(controls.FIELDS[name].annotation))
TYPES: Mapping[str, TypeAdapter[Any]] = {  # plain values without bounds
    name: TypeAdapter(plain(controls.FIELDS[name]), config=None if name in NESTED else FINITE) for name in FIELDS
}
MAX_TEXT = 2**20  # characters of the texts that are read
KEYS = ("darkroom", "parameters", "invokeai_metadata", "Comment", "prompt")
READERS = (swarmui, fooocus, invokeai, novelai, automatic1111, comfyui)  # the last also writes beside others' text


def read(content: bytes, cards: Sequence[ModelCard] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return fields of `GenerationRequest` that a PNG, JPEG or WebP file names, and notes on what could not be used.

    A value has its field's type and is otherwise as the file has it; whether it is allowed is for the form to say.
    `cards` are the models that are served: it depends on the model which layers a text skips.

    Raises:
        InvalidRequest: not such a picture, or one without settings that are read.
    """
    return from_texts(read_texts(content), cards)


def from_texts(texts: Mapping[str, str], cards: Sequence[ModelCard] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return what `read` does, from the texts of a file. Our own JSON comes before what other tools read.

    Raises:
        InvalidRequest: none of the texts has settings that are read.
    """
    if sum(len(texts.get(key, "")) for key in KEYS) > MAX_TEXT:
        raise InvalidRequest(f"The settings of a picture must be at most {MAX_TEXT} characters.")
    own = json_object(texts.get("darkroom", ""))
    found, notes = _typed(own, strict=True)
    if found:
        return _served({"prompt_syntax": "plain"} | found, notes, own, cards)  # older files do not say it
    for reader in READERS:
        settings = reader.read(texts)
        found, notes = _typed(settings.values, strict=False) if settings else ({}, [])
        if settings and found:
            if settings.names_layer and "clip_skip" in found:
                found["clip_skip"] = max(0, found["clip_skip"] - _last_text_layer(found.get("model"), cards))
            unused = ", ".join(settings.unused)
            notes = [*notes, f"Not used: {_cut(unused, 200)}."] if unused else notes
            return _served(found, notes, settings.values, cards)
    raise InvalidRequest(_unread(texts))


def _served(
    found: dict[str, Any], notes: list[str], values: Mapping[str, Any], cards: Sequence[ModelCard]
) -> tuple[dict[str, Any], list[str]]:
    """Return what was found, with the files of its model; of the first model where it is none."""
    card = find_card(cards, found.get("model")) or find_card(cards, None)
    if card is None:
        return found, notes
    found, others = with_served_files(found, values, card)
    return found, [*notes, *others]


def _last_text_layer(model: str | None, cards: Sequence[ModelCard]) -> int:
    """Return the layer that a model's texts are read from if they skip none; of the first model where it is none."""
    card = find_card(cards, model) or find_card(cards, None)
    return FAMILIES[card.family if card else "sd"].last_text_layer


def _unread(texts: Mapping[str, str]) -> str:
    """Why nothing was found."""
    if text := texts.get("parameters", "").strip():
        return f"No line of settings (“Steps: …”) was found in this picture's text: “{_cut(text, 60)}”."
    named = _cut(", ".join(name for name, text in texts.items() if text.strip() and name != "darkroom"), 200)
    if named:
        return f"This picture carries no settings that are read. Its texts are: {named}."
    return "This picture carries no settings."


def _typed(values: Mapping[str, Any], *, strict: bool) -> tuple[dict[str, Any], list[str]]:
    """Those values that have their field's type, and notes on the others. What others wrote is read less strictly."""
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name in FIELDS:
        value = values.get(name)
        if value in (None, []) or (name == "prompt" and value == ""):
            continue
        try:
            found[name] = _nested(name, value) if name in NESTED else TYPES[name].validate_python(value, strict=strict)
        except ValidationError:
            problem = "is not one of ours" if name in CHOSEN else "could not be read"
            notes.append(f"{label(name)} “{_cut(str(value), 60)}” {problem}.")
    return found, notes


def _nested(name: str, value: Any) -> Any:
    """The objects of a field as a request has them, without members that it does not have. Raises ValidationError."""
    kind = TYPES[name]
    return kind.dump_python(kind.validate_python(value, extra="ignore"), mode="json")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"
