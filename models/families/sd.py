"""Stable Diffusion 1.x and 2.x: one text encoder, and nothing else besides it.

Source: diffusers `pipelines/stable_diffusion/pipeline_stable_diffusion.py`.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel

MASKS_PADDING = True  # where a text encoder's config says `use_attention_mask`
TEXT_ENCODERS: tuple[tuple[str, str, type], ...] = (("tokenizer", "text_encoder", CLIPTextModel),)


def embed(outputs: Sequence[Any]) -> tuple[Float[Tensor, "texts tokens width"], None]:
    """What the UNet attends to, and no pooled embedding, from the text encoder's output."""
    return outputs[0].last_hidden_state, None


def unet_inputs(
    latents: Float[Tensor, "rows C h w"], hidden: Float[Tensor, "rows tokens width"], pooled: None, scale: int
) -> dict[str, Any]:
    """What the UNet takes besides latents and timesteps."""
    return {"encoder_hidden_states": hidden}


def pooled_width(config: Any) -> int:
    """No pooled embedding."""
    return 0


def vae_input(latents: Float[Tensor, "images C h w"], config: Any) -> Float[Tensor, "images C h w"]:
    """What the VAE decodes."""
    return latents / config.scaling_factor
