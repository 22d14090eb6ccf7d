"""Stable Diffusion XL: two text encoders, a pooled embedding, and the picture's size as numbers.

Source: diffusers `pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

MASKS_PADDING = False  # whatever a text encoder's config says
TEXT_ENCODERS: tuple[tuple[str, str, type], ...] = (
    ("tokenizer", "text_encoder", CLIPTextModel),
    ("tokenizer_2", "text_encoder_2", CLIPTextModelWithProjection),
)


def embed(outputs: Sequence[Any]) -> tuple[Float[Tensor, "texts tokens width"], Float[Tensor, "texts pooled"]]:
    """The last layer but one of both encoders side by side, and the pooled embedding of the second."""
    return torch.cat([output.hidden_states[-2] for output in outputs], -1), outputs[1].text_embeds


def unet_inputs(
    latents: Float[Tensor, "rows C h w"],
    hidden: Float[Tensor, "rows tokens width"],
    pooled: Float[Tensor, "rows pooled"],
    scale: int,
) -> dict[str, Any]:
    """What the UNet takes besides latents and timesteps: the picture was never cropped, so its size comes twice."""
    height, width = (side * scale for side in latents.shape[2:])
    sizes = latents.new_tensor([height, width, 0, 0, height, width]).expand(len(latents), -1)
    return {"encoder_hidden_states": hidden, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}


def pooled_width(config: Any) -> int:
    """What the UNet's embedding of text and sizes leaves for the text."""
    return config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim


def vae_input(latents: Float[Tensor, "images C h w"], config: Any) -> Float[Tensor, "images C h w"]:
    """What the VAE decodes: with a mean and a deviation a channel, where its config has them."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents / config.scaling_factor
    mean, std = (latents.new_tensor(each).view(1, -1, 1, 1) for each in (mean, std))
    return latents * std / config.scaling_factor + mean
