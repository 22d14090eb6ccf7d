"""What an image begins with: noise, or another image with noise, whole or where a mask says.

The draws are those of the diffusers pipelines, in their order, so that the same seed gives the same image.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.sampling import SamplerPlan
from models.spec import EncodedImage


class Kept(NamedTuple):
    """What of an image stays as it was, and the noise that it is given at each step."""

    image: Float[Tensor, "C h w"]
    noise: Float[Tensor, "C h w"]
    where: Bool[Tensor, "h w"]


class Start(NamedTuple):
    """The first latents, and what later steps need of the image that they are of."""

    latents: Float[Tensor, "C h w"]
    kept: Kept | None = None
    masked: tuple[Float[Tensor, "h w"], Float[Tensor, "C h w"]] | None = None  # mask, and latents without what it marks


def begin_with(encoded: EncodedImage, strength: float, plan: SamplerPlan, generator: torch.Generator) -> Start:
    """Return the start of an image that begins with another one.

    Where there is a mask, an image of strength 1 begins with mere noise. Latents without a deviation are what the
    pipelines are given in place of an image: then nothing is encoded, and only the noise is drawn.

    Source: diffusers `StableDiffusionImg2ImgPipeline`, `StableDiffusionInpaintPipeline`; the pipelines of XL are alike.
    """
    if encoded.mask is None:
        image = _drawn(encoded.mean, encoded.std, generator)
        return Start(with_noise(plan, 0, image, _noise(image, generator)))
    mask = torch.from_numpy(encoded.mask)
    is_new = strength == 1
    if encoded.masked is None:  # the model takes latents alone: what is kept replaces its part after each step
        image = _drawn(encoded.mean, encoded.std, generator)
        noise = _noise(image, generator)
        if encoded.std is not None:
            _noise(image, generator)  # for the masked image, which the pipelines encode for these models too
        first = noise * plan.init_noise_sigma if is_new else with_noise(plan, 0, image, noise)
        return Start(first, kept=Kept(image, noise, ~mask))
    image = torch.from_numpy(encoded.mean) if is_new else _drawn(encoded.mean, encoded.std, generator)
    noise = _noise(image, generator)
    first = noise * plan.init_noise_sigma if is_new else with_noise(plan, 0, image, noise)
    return Start(first, masked=(mask.float(), _drawn(*encoded.masked, generator)))


def with_noise(
    plan: SamplerPlan, index: int, image: Float[Tensor, "C h w"], noise: Float[Tensor, "C h w"]
) -> Float[Tensor, "C h w"]:
    """Return an image as noisy as latents are after `index` model calls."""
    image_weight, noise_weight = plan.noised[index]
    return image * image_weight + noise * noise_weight


def _drawn(mean: np.ndarray, std: np.ndarray | None, generator: torch.Generator) -> Float[Tensor, "C h w"]:
    """Draw latents from their normal distribution; `mean` itself where it has no deviation."""
    middle = torch.from_numpy(mean)
    return middle if std is None else middle + torch.from_numpy(std) * _noise(middle, generator)


def _noise(like: Float[Tensor, "C h w"], generator: torch.Generator) -> Float[Tensor, "C h w"]:
    return torch.randn(like.shape, generator=generator)
