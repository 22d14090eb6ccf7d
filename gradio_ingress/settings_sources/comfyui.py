"""ComfyUI's graph: one that samples once from plain values has settings, any other is a program.

Source: `SaveImage` in its `nodes.py`, which writes the graph that ran under `prompt`.
"""

from collections.abc import Mapping
from typing import Any

from gradio_ingress.settings_sources.base import (
    COMFYUI_SAMPLERS,
    COMFYUI_SCHEDULES,
    Settings,
    json_object,
    model_name,
    renamed,
    sampler,
)

NAMES = {"steps": "num_inference_steps", "cfg": "guidance_scale", "seed": "seed"}
PLAIN = {  # nodes of which everything is read that matters
    *("KSampler", "CLIPTextEncode", "CheckpointLoaderSimple", "EmptyLatentImage", "EmptySD3LatentImage"),
    *("VAEDecode", "VAELoader", "SaveImage", "PreviewImage"),
}


def read(texts: Mapping[str, str]) -> Settings | None:
    """Read the graph under `prompt`, if it has one KSampler. Nodes that are not read are named."""
    graph = {key: node for key, node in json_object(texts.get("prompt", "")).items() if _inputs(node) is not None}
    samplers = [_inputs(node) for node in graph.values() if node.get("class_type") == "KSampler"]
    if len(samplers) != 1 or samplers[0] is None:
        return None
    given = samplers[0]
    found: dict[str, Any] = {
        "prompt": _linked(graph, given.get("positive")).get("text"),
        "negative_prompt": _linked(graph, given.get("negative")).get("text"),
        "width": _linked(graph, given.get("latent_image")).get("width"),
        "height": _linked(graph, given.get("latent_image")).get("height"),
        "model": _linked(graph, given.get("model")).get("ckpt_name"),
        **renamed(given, NAMES),
    }
    values: dict[str, Any] = {name: value for name, value in found.items() if isinstance(value, str | int | float)}
    schedule = given.get("scheduler", "")
    values["model"] = model_name(found["model"])
    values["sampler"] = sampler(given.get("sampler_name"), schedule, COMFYUI_SAMPLERS, COMFYUI_SCHEDULES)
    others = {str(node.get("class_type")) for node in graph.values()} - PLAIN
    missing = [f"{name} (not a plain value)" for name in found if values.get(name) is None]
    denoise = [] if given.get("denoise", 1) == 1 else ["denoise"]
    return Settings(values, [*missing, *denoise, *sorted(others)])


def _inputs(node: Any) -> dict[str, Any] | None:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else None


def _linked(graph: Mapping[str, Any], link: Any) -> dict[str, Any]:
    """The inputs of the node that a link `[node, output]` leads to, empty where it leads to none."""
    node = graph.get(str(link[0])) if isinstance(link, list) and link else None
    return _inputs(node) or {}
