"""The text of AUTOMATIC1111's web UI, which Darkroom and many others write too.

Source: `parse_generation_parameters` in its `modules/infotext_utils.py`. Unlike there, the line of settings is known by
its first one, as a prompt may have colons too.
"""

import re
from collections.abc import Mapping
from typing import Any

from deployments.schema import GenerationRequest, nested_type
from gradio_ingress.settings_sources.base import Settings
from models.parameters import SAMPLER_NAMES
from models.settings_text import EMBEDDING_HASHES, LORA_HASHES, SETTINGS, read_value

SAMPLERS = {name: sampler for sampler, name in SAMPLER_NAMES.items()}
PLAIN_SCHEDULES = ("", "Automatic", "Uniform", "Normal")  # what a sampler does unless told otherwise
STEPS = "Steps: "  # begins the line of settings
SETTING = re.compile(r'(?:^|,)([^:,"]++):( *+"(?:\\.|[^"\\])*+"|[^,]*+)')  # possessive: nothing is tried twice
APART = ("Sampler", "Size")  # settings that are read in a way of their own
NAMES = {setting: field for field, setting in SETTINGS.items() if setting not in APART}
READ = {*NAMES, *APART, "Schedule type", EMBEDDING_HASHES, LORA_HASHES}
OMITTED = {
    "guidance_rescale": 0.0,
    "clip_skip": 1,
    "prompt_syntax": "weighted",
}  # what a text means that does not name them
SILENT = {"Model hash", "Version"}  # in every picture, and nothing that could be set
HASH = re.compile(r"(?:^|,) *+([^:,]++): *+([0-9a-fA-F]{8,64})(?=,|$)")  # possessive, as above
NESTED = frozenset(name for name, field in GenerationRequest.model_fields.items() if nested_type(field.annotation))


def read(texts: Mapping[str, str]) -> Settings | None:
    """Read the text under `parameters`, if it has a line of settings: any other could be about anything."""
    words, mark, line = ("\n" + texts.get("parameters", "").rstrip()).rpartition("\n" + STEPS)
    if not mark:
        return None
    prompt, _, negative_prompt = words.partition("\nNegative prompt:")
    values: dict[str, Any] = {"prompt": prompt[1:], "negative_prompt": negative_prompt.removeprefix(" ")}
    pairs = SETTING.findall(mark[1:] + line.partition("\n")[0])
    settings = {name.strip(): value.strip() for name, value in pairs}
    settings = {name: read_value(text, is_nested=NAMES.get(name) in NESTED) for name, text in settings.items()}
    if "Model" in settings and SILENT.isdisjoint(settings):  # Darkroom's own, before it had a syntax to write
        values["prompt_syntax"] = "plain"
    values |= {field: value for field, value in OMITTED.items() if field not in values}
    values |= {field: settings[name] for name, field in NAMES.items() if name in settings}
    values["embeddings"] = _hashes(settings.get(EMBEDDING_HASHES, ""))
    values["lora_hashes"] = _hashes(settings.get(LORA_HASHES, ""))
    if "Sampler" in settings:
        values["sampler"] = _sampler(settings["Sampler"], settings.get("Schedule type", ""))
    if "Size" in settings:
        values["width"], _, values["height"] = settings["Size"].partition("x")
    return Settings(values, [name for name in settings if name not in READ | SILENT], names_layer=True)


def _hashes(text: str) -> list[dict[str, str]]:
    """Return the names of files, each with the first digits of a sum over it."""
    return [{"name": name.strip(), "sha256": digits.lower()} for name, digits in HASH.findall(text)]


def _sampler(name: str, schedule: str) -> str:
    """Our name of a sampler; theirs where it is none of ours. Since version 1.9 the schedule stands beside it."""
    whole = name if schedule in PLAIN_SCHEDULES else f"{name} {schedule}"
    return SAMPLERS.get(whole, whole)
