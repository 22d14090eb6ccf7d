"""The result of an image's first pass, scaled up: what its second pass begins with."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32
from PIL import Image

from models.errors import DarkroomError
from models.hires import Hires
from models.image_input import latent_mask, resized
from models.init_image import InitPixels, encode_init
from models.spec import EncodedImage
from models.vae import Decoded, Vae


class FirstPass(NamedTuple):
    """A result to scale up, and what the second pass makes anew of it; None: all."""

    latents: Float32[np.ndarray, "C _ _"]
    hires: Hires
    mask: Bool[np.ndarray, "H W"] | None = None  # in the size of the second pass


def upscale(vae: Vae, items: Sequence[FirstPass], *, requires_mask: bool) -> list[EncodedImage | DarkroomError]:
    """Scale results up, each by its upscaler. One that fails is an error."""
    pixels = iter(_upscale_pixels(vae, [item for item in items if item.hires.upscaler == "lanczos"], requires_mask))
    return [next(pixels) if item.hires.upscaler == "lanczos" else _upscale_latents(vae, item) for item in items]


def _upscale_latents(vae: Vae, item: FirstPass) -> EncodedImage:
    """Scale latents up as they are, so that nothing is drawn of them.

    Source: AUTOMATIC1111's upscaler "Latent" (`modules/shared_items.py`: bilinear, without antialiasing).
    """
    size = item.hires.height // vae.scale, item.hires.width // vae.scale
    latents = torch.from_numpy(item.latents)[None]
    larger = torch.nn.functional.interpolate(latents, size=size, mode="bilinear", antialias=False)[0]
    mask = None if item.mask is None else latent_mask(item.mask, vae.scale)
    return EncodedImage(mean=larger.numpy(), std=None, mask=mask)


def _upscale_pixels(vae: Vae, items: Sequence[FirstPass], requires_mask: bool) -> list[EncodedImage | DarkroomError]:
    """Decode, scale up with Lanczos, and encode."""
    results = vae.decode([item.latents for item in items])
    images = [
        InitPixels(resized(Image.fromarray(result.pixels), item.hires.width, item.hires.height, "stretch"), item.mask)
        for item, result in zip(items, results, strict=True)
        if isinstance(result, Decoded)
    ]
    encoded = iter(encode_init(vae, images, requires_mask=requires_mask))
    return [next(encoded) if isinstance(result, Decoded) else result for result in results]
