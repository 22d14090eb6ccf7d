"""A glimpse of an unfinished picture: the model's guess of the finished latents, mapped to RGB by its card's matrix."""

import io
import time

import numpy as np
import torch
from PIL import Image

from models.denoiser.state import DenoiseState
from models.model_card import LatentRgb


class Preview:
    """Draws previews at most once in `interval_s` for each picture; never, where there is no map."""

    def __init__(self, latent_rgb: LatentRgb, interval_s: float = 1.0, scale: int = 4) -> None:
        self.interval_s = interval_s
        self._map = torch.tensor(latent_rgb) if latent_rgb else None
        self._scale = scale  # preview pixels to a latent cell

    def due(self, state: DenoiseState) -> bytes | None:
        """Return a WebP of the picture after its newest output, if it is time for one."""
        now = time.monotonic()
        waited_s = now - max(state.previewed_at, state.joined_at)
        if self._map is None or not state.plan.pred_original_sample or state.index == 0 or waited_s < self.interval_s:
            return None
        state.previewed_at = now
        x_weight, out_weight = state.plan.pred_original_sample[state.index]
        clean = (state.latents * x_weight + state.output * out_weight).cpu()  # [C, h, w]
        rgb = torch.einsum("chw,cd->hwd", clean, self._map[:-1]) + self._map[-1]
        pixels = ((rgb.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
        image = Image.fromarray(pixels)
        image = image.resize((image.width * self._scale, image.height * self._scale), Image.Resampling.BICUBIC)
        target = io.BytesIO()
        image.save(target, "webp", quality=70)
        return target.getvalue()
