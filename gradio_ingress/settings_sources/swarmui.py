"""SwarmUI's JSON. Source: its `docs/Image Metadata Format.md`."""

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
    "negativeprompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "steps": "num_inference_steps",
    "cfgscale": "guidance_scale",
    "seed": "seed",
}
SAMPLERS = ("comfyuisampler", "sampler")  # now, and in its first versions
SCHEDULES = ("comfyuischeduler", "scheduler")
LAYER = "clipstopatlayer"  # -1 is the last one
SILENT = ("model", "images", "aspectratio", "swarm_version")


def read(texts: Mapping[str, str]) -> Settings | None:
    """Read `sui_image_params` of the JSON under `parameters`."""
    data = json_object(texts.get("parameters", "")).get("sui_image_params")
    if not isinstance(data, dict):
        return None
    values = renamed(data, NAMES) | {"model": model_name(data.get("model"))}
    name = next((data[key] for key in SAMPLERS if key in data), None)
    schedule = next((data[key] for key in SCHEDULES if key in data), "")
    values["sampler"] = sampler(name, schedule, COMFYUI_SAMPLERS, COMFYUI_SCHEDULES)
    if isinstance(data.get(LAYER), int):
        values["clip_skip"] = -data[LAYER]
    return Settings(values, unused(data, (*NAMES, *SAMPLERS, *SCHEDULES, LAYER, *SILENT)), names_layer=True)
