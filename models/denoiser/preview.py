"""A glimpse of an unfinished picture: the model's guess of the finished latents, mapped to RGB by a matrix."""

import io
import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from models.denoiser.state import DenoiseState
from models.sampling import HISTORY


class Preview:
    """Draws previews at most once in `interval_s` for each picture; never, where the model card has no map."""

    def __init__(self, latent_rgb: Sequence[Sequence[float]], interval_s: float, scale: int = 4) -> None:
        self._map = torch.tensor([list(row) for row in latent_rgb])  # [C + 1, 3]; the last row is added
        self._interval_s = interval_s
        self._scale = scale  # preview pixels to a latent cell

    def due(self, state: DenoiseState) -> bytes | None:
        """Return a WebP of the picture after its newest output, if it is time for one."""
        now = time.monotonic()
        first = state.index == 0
        if not len(self._map) or first or now - max(state.previewed_at, state.joined_at) < self._interval_s:
            return None
        state.previewed_at = now
        x_weight, out_weight = state.plan.clean[state.index].tolist()
        clean = (state.terms[0] * x_weight + state.terms[HISTORY] * out_weight).float().cpu()  # [C, h, w]
        rgb = torch.einsum("chw,cd->hwd", clean, self._map[:-1]) + self._map[-1]
        pixels = ((rgb.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
        image = Image.fromarray(pixels)
        image = image.resize((image.width * self._scale, image.height * self._scale), Image.Resampling.BICUBIC)
        target = io.BytesIO()
        image.save(target, "webp", quality=70)
        return target.getvalue()
