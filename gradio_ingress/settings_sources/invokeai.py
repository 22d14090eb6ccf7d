"""InvokeAI's JSON, since its version 3.

Source: `CoreMetadataInvocation` in its `invokeai/app/invocations/metadata.py`.
"""

from collections.abc import Mapping

from gradio_ingress.settings_sources.base import Settings, json_object, renamed, sampler, unused

NAMES = {
    "positive_prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "cfg_rescale_multiplier": "guidance_rescale",
    "clip_skip": "clip_skip",
    "seed": "seed",
}
SAMPLERS = {
    "dpmpp_2m_k": "dpmpp_2m_karras",
    "dpmpp_2s": "dpmpp_singlestep",
    "euler_a": "euler_ancestral",
    "euler_k": "euler_karras",
    "kdpm_2": "kdpm2",
    "kdpm_2_a": "kdpm2_ancestral",
}
SILENT = ("app_version", "metadata_version", "model", "rand_device", "scheduler", "_canvas_objects")


def read(texts: Mapping[str, str]) -> Settings | None:
    """Read the JSON under `invokeai_metadata`."""
    data = json_object(texts.get("invokeai_metadata", ""))
    if not data:
        return None
    values, model = renamed(data, NAMES), data.get("model")
    if isinstance(model, dict):
        values["model"] = model.get("name", model.get("model_name"))
    values["sampler"] = sampler(data.get("scheduler"), "", SAMPLERS, ("",))
    is_plain = str(data.get("generation_mode", "")).endswith("txt2img")
    return Settings(values, unused(data, (*NAMES, *SILENT, *(("generation_mode",) if is_plain else ()))))
