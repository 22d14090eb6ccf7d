"""The diffusion parameters: their names, and the bounds that hold whatever the model. No torch."""

from typing import Literal, get_args

Sampler = Literal[
    "default",
    "ddim",
    "ddpm",
    "euler",
    "euler_karras",
    "euler_ancestral",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "dpmpp_singlestep",
    "unipc",
    "deis",
    "pndm",
    "kdpm2",
    "kdpm2_ancestral",
    "lcm",
    "tcd",
]
PromptSyntax = Literal["plain", "weighted"]
OutputFormat = Literal["png", "jpeg", "webp"]
OWN_SAMPLER = "default"  # the checkpoint's scheduler, where no other sampler means it
DtypeName = Literal["float32", "bfloat16", "float16"]  # what weights are computed in

SAMPLERS: tuple[str, ...] = get_args(Sampler)
SAMPLER_NAMES: dict[str, str] = {
    "default": "Default",  # the checkpoint's own scheduler, where no other name means it
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "euler_karras": "Euler Karras",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_singlestep": "DPM++ single-step",
    "unipc": "UniPC",
    "deis": "DEIS",
    "pndm": "PNDM",
    "kdpm2": "DPM2",
    "kdpm2_ancestral": "DPM2 a",
    "lcm": "LCM",
    "tcd": "TCD",
}
ResizeMode = Literal["crop", "fit", "stretch"]
MaskFlaw = Literal["black", "transparent"]
MASK_RULES: dict[MaskFlaw, str] = {  # what keeps an image from being a mask -> what it must be
    "black": "must be white where the image changes; it is black everywhere",
    "transparent": "must be opaque, white where the image changes and black where it stays: transparency means that "
    "to POST /v1/images/edits alone",
}
Area = Literal["whole", "masked"]  # of an image, that is generated anew
Upscaler = Literal["latent", "lanczos"]
MAX_STEPS = 150
MIN_SIDE, MAX_SIDE = 64, 2048  # pixels
MAX_HIRES_SCALE = 4  # of a side
MAX_CLIP_SKIP = 32  # layers of the largest text encoder
MAX_STEPS_BY_SAMPLER: dict[str, int] = {"lcm": 50, "tcd": 50}  # the steps of their distillation


def model_calls(sampler: str, steps: int, begin: int = 0) -> int:
    """Return how often `sampler` calls the model in `steps` steps, without the first `begin` of them.

    Second-order samplers evaluate a step twice.
    """
    match sampler:
        case "heun" | "kdpm2" | "kdpm2_ancestral":
            return 2 * (steps - begin) - 1
        case "pndm" if steps > 1:
            return steps + 1 - begin
        case _:
            return steps - begin
