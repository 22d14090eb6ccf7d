"""A glimpse of an unfinished picture: the model's guess of the finished latents, mapped to RGB by a matrix."""

import io
import time

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models.denoiser.state import DenoiseState
from models.vae_decoder import Decoded, VaeDecoder

FITTED_ON = 16  # pictures
FITTED_SIDE = 16  # latent cells


def fit_latent_rgb(decoder: VaeDecoder, channels: int) -> Float[Tensor, "channels_and_one 3"]:
    """Return the map from a cell's latents to its mean colour in −1 … 1, the last row added, that fits a VAE best.

    Fitted by least squares on random latents that are as smooth as pictures' are; the same for the same weights.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    coarse = torch.randn(FITTED_ON, channels, FITTED_SIDE // 4, FITTED_SIDE // 4, generator=generator)
    latents = functional.interpolate(coarse, size=FITTED_SIDE, mode="bicubic")
    latents = latents / latents.std()
    images = decoder.decode([image.numpy() for image in latents])
    decoded = torch.stack([torch.from_numpy(image.pixels) for image in images if isinstance(image, Decoded)])
    colours = functional.adaptive_avg_pool2d(decoded.permute(0, 3, 1, 2).float(), FITTED_SIDE) / 127.5 - 1
    cells = latents.permute(0, 2, 3, 1).reshape(-1, channels)
    known = torch.cat([cells, torch.ones(len(cells), 1)], 1)
    return torch.linalg.lstsq(known, colours.permute(0, 2, 3, 1).reshape(-1, 3)).solution


class Preview:
    """Draws previews at most once in `interval_s` for each picture; never, where there is no map."""

    def __init__(
        self, latent_rgb: Float[Tensor, "channels_and_one 3"] | None, interval_s: float = 1.0, scale: int = 4
    ) -> None:
        self.interval_s = interval_s
        self._map = latent_rgb
        self._scale = scale  # preview pixels to a latent cell

    def due(self, state: DenoiseState) -> bytes | None:
        """Return a WebP of the picture after its newest output, if it is time for one."""
        now = time.monotonic()
        waited_s = now - max(state.previewed_at, state.joined_at)
        if self._map is None or not state.plan.clean or state.index == 0 or waited_s < self.interval_s:
            return None
        state.previewed_at = now
        x_weight, out_weight = state.plan.clean[state.index]
        clean = (state.latents * x_weight + state.output * out_weight).cpu()  # [C, h, w]
        rgb = torch.einsum("chw,cd->hwd", clean, self._map[:-1]) + self._map[-1]
        pixels = ((rgb.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
        image = Image.fromarray(pixels)
        image = image.resize((image.width * self._scale, image.height * self._scale), Image.Resampling.BICUBIC)
        target = io.BytesIO()
        image.save(target, "webp", quality=70)
        return target.getvalue()
