"""Stable Diffusion 1.x and 2.x: one text encoder, and nothing else besides it."""

from jaxtyping import Float
from torch import Tensor


def unet_inputs(prompt_embeds: Float[Tensor, "rows tokens width"]) -> dict[str, Tensor]:
    """What the UNet takes besides latents and timesteps.

    Source: diffusers `pipelines/stable_diffusion/pipeline_stable_diffusion.py`, the denoising loop.
    """
    return {"encoder_hidden_states": prompt_embeds}
