"""The stage of pixels: an autoencoder. Latents in, pixels out; and pixels in, the posterior of their latents out."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from models.checkpoint.configs import read_json
from models.checkpoint.loading import available_bytes, load_component, parameter_bytes
from models.errors import InvalidRequest, NonFinite, OutOfMemory
from models.families.base import Family
from models.families.registry import FAMILIES

MAX_CELLS_TOGETHER = 64 * 64  # latent cells an image; above, a batch is computed one image at a time
DECODE_TENSORS = 5  # of the widest layer at full size that decoding holds at once: 4.3 were measured
ENCODE_TENSORS = 6  # of the first layer at full size that encoding holds at once: 5.1 were measured
MEMORY_SHARE = 0.5  # of what is free when the stage starts

T = TypeVar("T")


class Decoded(NamedTuple):
    """One image. `tiled`: it did not fit whole, so tiles were blended, and it differs from diffusers' image."""

    pixels: UInt8[np.ndarray, "H W 3"]
    tiled: bool


class Encoded(NamedTuple):
    """The normal distribution of one image's latents, as its family's denoiser has them."""

    mean: Float32[np.ndarray, "C h w"]
    std: Float32[np.ndarray, "C h w"]


class Vae:
    """An autoencoder of images.

    With `batch_invariant` an image's bits cannot depend on its neighbours, nor on how much memory was free: each is
    computed alone, and never in tiles. `memory_bytes` is what one image may take; None: the device refuses by itself.
    """

    def __init__(
        self,
        vae: Any,
        family: Family,
        scale: int,
        device: torch.device,
        *,
        batch_invariant: bool = False,
        memory_bytes: float | None = None,
    ) -> None:
        self._vae = vae
        self._family = family
        self.scale = scale  # pixels to a latent cell
        self._device = device
        self._batch_invariant = batch_invariant
        self._memory_bytes = memory_bytes
        widths = self._vae.config.block_out_channels
        self._decode_bytes = DECODE_TENSORS * max(widths[:2]) * vae.dtype.itemsize  # a pixel
        self._encode_bytes = ENCODE_TENSORS * widths[0] * vae.dtype.itemsize

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
        shape = self.channels, height // self.scale, width // self.scale
        self.decode([np.zeros(shape, np.float32)])

    @torch.inference_mode()
    def decode(self, latents: Sequence[Float32[np.ndarray, "C _ _"]]) -> list[Decoded | NonFinite | OutOfMemory]:
        """Decode a batch of any shapes; those of one shape share a forward. An image that fails is an error.

        Source: diffusers `VaeImageProcessor.postprocess`.
        """
        return self._in_batches(latents, self._decode, MAX_CELLS_TOGETHER * self.channels)

    @torch.inference_mode()
    def encode(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"] | Float32[np.ndarray, "_ _ 3"]]
    ) -> list[Encoded | InvalidRequest | NonFinite | OutOfMemory]:
        """Encode a batch of any shapes; those of one shape share a forward. An image that fails is an error.

        Images of floats are from -1 to 1: see `init_image.without`.

        Never in tiles: encoding takes about half the memory of decoding.

        Source: diffusers `VaeImageProcessor.preprocess`.
        """
        return self._in_batches(images, self._encode, MAX_CELLS_TOGETHER * self.scale**2 * 3)

    def _in_batches(
        self, items: Sequence[np.ndarray], compute: Callable[[Tensor], Sequence[T]], max_size: int
    ) -> list[T]:
        """Compute items of one shape together, and those of more than `max_size` numbers alone."""
        outcomes: dict[int, T] = {}
        shapes: dict[tuple[Any, ...], list[int]] = {}
        for index, item in enumerate(items):
            shapes.setdefault((item.dtype, item.shape), []).append(index)
        for indices in shapes.values():
            alone = self._batch_invariant or items[indices[0]].size > max_size
            for group in [[index] for index in indices] if alone else [indices]:
                stacked = torch.from_numpy(np.stack([items[index] for index in group]))
                outcomes |= zip(group, compute(stacked), strict=True)
        return [outcomes[index] for index in range(len(items))]

    def _decode(self, latents: Tensor) -> Sequence[Decoded | NonFinite | OutOfMemory]:
        """Decode latents of one shape: whole, else one by one, else in tiles, as they fit into memory."""
        height, width = (side * self.scale for side in latents.shape[2:])
        fits = self._fits(height * width * self._decode_bytes)
        if fits and (decoded := self._try(partial(self._decoded, latents), tiled=False)) is not None:
            return decoded
        if fits and len(latents) > 1:
            return [outcome for one in latents.split(1) for outcome in self._decode(one)]
        tiled = None if self._batch_invariant else self._try(partial(self._decoded, latents), tiled=True)
        return tiled or [_too_large(width, height)] * len(latents)

    def _encode(self, images: Tensor) -> Sequence[Encoded | InvalidRequest | NonFinite | OutOfMemory]:
        """Encode images of one shape: whole, else one by one, as they fit into memory."""
        height, width = images.shape[1:3]
        if height % self.scale or width % self.scale:
            message = f"An image's sides must be multiples of {self.scale} to be encoded; got {width}x{height}."
            return [InvalidRequest(message)] * len(images)
        fits = self._fits(height * width * self._encode_bytes)
        if fits and (encoded := self._try(partial(self._encoded, images), tiled=False)) is not None:
            return encoded
        if fits and len(images) > 1:
            return [outcome for one in images.split(1) for outcome in self._encode(one)]
        return [_too_large(width, height)] * len(images)

    def _fits(self, needed_bytes: int) -> bool:
        return self._memory_bytes is None or needed_bytes <= self._memory_bytes

    def _try(self, compute: Callable[[], Sequence[T]], *, tiled: bool) -> Sequence[T] | None:
        """Compute, in tiles or whole; None where the device has too little memory."""
        self._vae.use_tiling = tiled
        try:
            return compute()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None

    def _decoded(self, latents: Tensor) -> Sequence[Decoded | NonFinite]:
        scaled = self._family.to_vae(latents.to(self._device, self._vae.dtype), self._vae.config)
        decoded = self._vae.decode(scaled, return_dict=False)[0].float()
        finite = decoded.isfinite().flatten(1).all(1).tolist()
        unit = (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return [
            Decoded((image * 255).round().astype(np.uint8), self._vae.use_tiling) if ok else _not_finite()
            for image, ok in zip(unit, finite, strict=True)
        ]

    def _encoded(self, images: Tensor) -> Sequence[Encoded | NonFinite]:
        pixels = images.to(self._device).permute(0, 3, 1, 2)
        if not pixels.is_floating_point():
            pixels = 2 * (pixels.float() / 255) - 1
        posterior = self._vae.encode(pixels.to(self._vae.dtype), return_dict=False)[0]
        mean, zero, std = (
            self._family.from_vae(each.float(), self._vae.config).cpu()
            for each in (posterior.mean, torch.zeros_like(posterior.mean), posterior.std)
        )
        std -= zero  # the same factor, without the offset
        finite = (mean.isfinite() & std.isfinite()).flatten(1).all(1).tolist()
        return [
            Encoded(*each) if ok else _not_finite() for *each, ok in zip(mean.numpy(), std.numpy(), finite, strict=True)
        ]


def _not_finite() -> NonFinite:
    return NonFinite("The image is not finite.")


def _too_large(width: int, height: int) -> OutOfMemory:
    return OutOfMemory(f"An image of {width}x{height} does not fit into the VAE's memory.")


def load_vae(
    folder: Path,
    family: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    batch_invariant: bool = False,
) -> Vae:
    """Load a checkpoint's autoencoder; in float32 where its config, or else its family, says that less overflows.

    A CPU does not refuse memory, it ends the process: there, a share of what is free now is the bound.

    Raises:
        UnusableCheckpoint: names the file.
    """
    known = FAMILIES[family]
    if read_json(folder, f"{known.vae}/config.json").get("force_upcast", known.vae_upcasts):
        dtype = torch.float32
    vae = load_component(folder, known, known.vae, device, dtype)
    memory_bytes = MEMORY_SHARE * available_bytes() if device.type == "cpu" else None
    scale = known.latent_scale(folder)
    return Vae(vae, known, scale, device, batch_invariant=batch_invariant, memory_bytes=memory_bytes)
