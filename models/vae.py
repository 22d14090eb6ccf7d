"""The stage of pixels: finished latents in, pixels out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float32, UInt8
from torch import Tensor

from models.configs import read_json
from models.errors import NonFinite, OutOfMemory
from models.families.registry import FAMILIES
from models.loading import available_bytes, load_component, parameter_bytes

MAX_CELLS_TOGETHER = 64 * 64  # latent cells an image; above, a batch is decoded one image at a time
PEAK_TENSORS = 5  # of the widest layer at full size: what decoding holds at once (benchmarks/memory.py)
MEMORY_SHARE = 0.5  # of what is free when the stage starts


class Decoded(NamedTuple):
    """One image. `tiled`: it did not fit whole, so tiles were blended, and it differs from diffusers' image."""

    pixels: UInt8[np.ndarray, "H W 3"]
    tiled: bool


class Vae:
    """An AutoencoderKL without its encoder.

    With `batch_invariant` an image's bits cannot depend on its neighbours, nor on how much memory was free: each is
    decoded alone, and never in tiles. `max_pixels` is the size above which an image does not fit whole.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        family: str,
        device: torch.device,
        *,
        batch_invariant: bool = False,
        max_pixels: int | None = None,
    ) -> None:
        self._vae: Any = vae
        self._family = FAMILIES[family]
        self._device = device
        self._batch_invariant = batch_invariant
        self._max_pixels = max_pixels
        self._scale = 2 ** (len(self._vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self._vae.config.latent_channels

    @property
    def parameter_bytes(self) -> int:
        """What the weights take in memory."""
        return parameter_bytes(self._vae)

    def warm_up(self, width: int, height: int) -> None:
        """Decode one image of so many pixels, so that the first one does not wait for what that sets up."""
        shape = self._vae.config.latent_channels, height // self._scale, width // self._scale
        self.decode([np.zeros(shape, np.float32)])

    @torch.inference_mode()
    def decode(self, latents: Sequence[Float32[np.ndarray, "C _ _"]]) -> list[Decoded | NonFinite | OutOfMemory]:
        """Decode a batch of any shapes; those of one shape share a forward. An image that fails is an error.

        Source: diffusers `VaeImageProcessor.postprocess`.
        """
        outcomes: dict[int, Decoded | NonFinite | OutOfMemory] = {}
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(latents):
            shapes.setdefault(item.shape, []).append(index)
        for (_, height, width), indices in shapes.items():
            alone = self._batch_invariant or height * width > MAX_CELLS_TOGETHER
            for group in [[index] for index in indices] if alone else [indices]:
                stacked = torch.from_numpy(np.stack([latents[index] for index in group]))
                outcomes |= zip(group, self._decode(stacked), strict=True)
        return [outcomes[index] for index in range(len(latents))]

    def _decode(self, latents: Tensor) -> list[Decoded | NonFinite | OutOfMemory]:
        """Decode latents of one shape: whole, else one by one, else in tiles, as they fit into memory."""
        height, width = (side * self._scale for side in latents.shape[2:])
        fits = self._max_pixels is None or height * width <= self._max_pixels
        if fits and (decoded := self._try(latents, tiled=False)) is not None:
            return decoded
        if fits and len(latents) > 1:
            return [outcome for one in latents.split(1) for outcome in self._decode(one)]
        if not self._batch_invariant and (decoded := self._try(latents, tiled=True)) is not None:
            return decoded
        return [OutOfMemory(f"An image of {width}x{height} does not fit into the VAE's memory.")] * len(latents)

    def _try(self, latents: Tensor, *, tiled: bool) -> list[Decoded | NonFinite | OutOfMemory] | None:
        """Decode latents of one shape; None where the device has too little memory."""
        self._vae.use_tiling = tiled
        try:
            scaled = self._family.to_vae(latents.to(self._device, self._vae.dtype), self._vae.config)
            decoded = self._vae.decode(scaled, return_dict=False)[0].float()
            finite = decoded.isfinite().flatten(1).all(1).tolist()
            unit = (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None
        return [
            Decoded((image * 255).round().astype(np.uint8), tiled) if ok else NonFinite("The image is not finite.")
            for image, ok in zip(unit, finite, strict=True)
        ]


def load_vae(
    folder: Path,
    family: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    batch_invariant: bool = False,
) -> Vae:
    """Load the decoder half of a checkpoint's autoencoder; in float32 where its config says that less overflows.

    Raises:
        UnusableCheckpoint: names the file.
    """
    name = FAMILIES[family].vae
    if read_json(folder, f"{name}/config.json").get("force_upcast"):  # the class's own default would be yes
        dtype = torch.float32
    vae = load_component(folder, FAMILIES[family], name, device, dtype)
    vae.encoder = vae.quant_conv = None
    max_pixels = _max_pixels_on_cpu(vae) if device.type == "cpu" else None
    return Vae(vae, family, device, batch_invariant=batch_invariant, max_pixels=max_pixels)


def _max_pixels_on_cpu(vae: Any) -> int:
    """Return how large an image may be decoded whole: a CPU does not refuse memory, it ends the process."""
    bytes_per_pixel = PEAK_TENSORS * max(vae.config.block_out_channels[:2]) * vae.dtype.itemsize
    return int(MEMORY_SHARE * available_bytes() / bytes_per_pixel)
