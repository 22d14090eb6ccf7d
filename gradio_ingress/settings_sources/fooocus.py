"""Fooocus's JSON. Source: `FooocusMetadataParser` in its `modules/meta_parser.py`.

Its other scheme is AUTOMATIC1111's text.
"""

import re
from collections.abc import Mapping

from gradio_ingress.settings_sources.base import (
    COMFYUI_SAMPLERS,
    COMFYUI_SCHEDULES,
    Settings,
    json_object,
    model_name,
    renamed,
    sampler,
    unused,
)

NAMES = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "seed": "seed",
    "clip_skip": "clip_skip",
}
RESOLUTION = re.compile(r"\((\d{1,9}), (\d{1,9})\)")
APART = ("resolution", "base_model", "sampler", "scheduler")
SILENT = (  # what each file has, or what says in other words what is read
    *("base_model_hash", "created_by", "full_negative_prompt", "full_prompt", "metadata_scheme", "performance"),
    *("refiner_switch", "version"),
)


def read(texts: Mapping[str, str]) -> Settings | None:
    """Read the JSON under `parameters`. What its styles add to the prompt is not read."""
    data = json_object(texts.get("parameters", ""))
    if "base_model" not in data:
        return None
    values = renamed(data, NAMES) | {"model": model_name(data["base_model"])}
    if size := RESOLUTION.fullmatch(str(data.get("resolution"))):
        values["width"], values["height"] = size.groups()
    schedule = data.get("scheduler", "")
    values["sampler"] = sampler(data.get("sampler"), schedule, COMFYUI_SAMPLERS, COMFYUI_SCHEDULES)
    return Settings(values, unused(data, (*NAMES, *APART, *SILENT)), names_layer=True)
