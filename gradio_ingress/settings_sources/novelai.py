"""NovelAI's JSON."""

from collections.abc import Mapping

from gradio_ingress.settings_sources.base import NOTHING, Settings, json_object, renamed, sampler

NAMES = {
    "prompt": "prompt",
    "uc": "negative_prompt",
    "width": "width",
    "height": "height",
    "steps": "num_inference_steps",
    "scale": "guidance_scale",
    "cfg_rescale": "guidance_rescale",
    "seed": "seed",
}
SAMPLERS = {
    "ddim_v3": "ddim",
    "k_dpm_2": "kdpm2",
    "k_dpm_2_ancestral": "kdpm2_ancestral",
    "k_dpmpp_2m": "dpmpp_2m",
    "k_dpmpp_2m_sde": "dpmpp_2m_sde",
    "k_euler": "euler",
    "k_euler_ancestral": "euler_ancestral",
    "k_heun": "heun",
    "plms": "pndm",
}
PLAIN_SCHEDULES = ("", "native")
UNUSED = (  # of its many entries, those that change an image
    *("controlnet_model", "dynamic_thresholding", "sm", "sm_dyn", "strength", "noise"),
    *("reference_strength_multiple", "v4_prompt", "v4_negative_prompt"),
)


def read(texts: Mapping[str, str]) -> Settings | None:
    """Read the JSON under `Comment` of a file that names NovelAI as its software."""
    data = json_object(texts.get("Comment", ""))
    if not data or not texts.get("Software", "").startswith("NovelAI"):
        return None
    values = renamed(data, NAMES) | {"model": texts.get("Source")}
    values["sampler"] = sampler(data.get("sampler"), data.get("noise_schedule", ""), SAMPLERS, PLAIN_SCHEDULES)
    return Settings(values, [name for name in UNUSED if data.get(name) not in NOTHING])
