"""What a tool's reader returns, and what several of them need.

A reader gets a file's texts by key. It returns None where none of them is its tool's.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

NOTHING = (None, "", "None", "none", "[]", "Default (model)", False, [], {})  # values of settings that change nothing
WEIGHTS = (".safetensors", ".ckpt")
COMFYUI_SAMPLERS = {  # of the tools that run ComfyUI: their name -> ours, where they differ
    "dpm_2": "kdpm2",
    "dpm_2_ancestral": "kdpm2_ancestral",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "uni_pc": "unipc",
}
COMFYUI_SCHEDULES = ("", "normal")


class Settings(NamedTuple):
    """Values by field of `GenerationRequest`, as the tool wrote them, and the names of settings that no field has."""

    values: Mapping[str, Any]
    unused: Sequence[str] = ()
    names_layer: bool = False  # `clip_skip` is the layer that the text is read from, counted from the last one


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a text is, empty where it is none."""
    try:
        values = from_json(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def renamed(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that `names` maps to fields, by field."""
    return {field: data[name] for name, field in names.items() if name in data}


def unused(data: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return the names of settings that are not known and change something."""
    return [name for name, value in data.items() if name not in known and value not in NOTHING]


def sampler(name: Any, schedule: Any, names: Mapping[str, str], plain_schedules: Collection[str]) -> str | None:
    """Return our name of a sampler and its schedule, or one that is none of ours and that people recognise."""
    if not isinstance(name, str):
        return None
    own = names.get(name, name)
    return own if schedule in plain_schedules else f"{own}_{schedule}"


def model_name(path: Any) -> str | None:
    """Return a model's name from the path of its weights."""
    if not isinstance(path, str):
        return None
    name = path.replace("\\", "/").rpartition("/")[2]
    return next((name.removesuffix(suffix) for suffix in WEIGHTS if name.endswith(suffix)), name)
