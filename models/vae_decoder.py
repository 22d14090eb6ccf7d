"""The VAE decoder stage: finished latents in, encoded pictures out."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float32, UInt8
from PIL import Image, PngImagePlugin

from models.checkpoint_files import read_json
from models.errors import NonFinite
from models.loading import load_model, parameter_bytes
from models.spec import SAMPLER_NAMES, ImageSpec

LATENT_SIDE_SLICED = 64  # above this, a batch is decoded one picture at a time
LATENT_SIDE_TILED = 128  # above this, a picture is decoded in tiles


class VaeDecoder:
    """An AutoencoderKL without its encoder. With `one_by_one` a picture's bits cannot depend on its neighbours."""

    def __init__(self, vae: AutoencoderKL, device: torch.device, *, one_by_one: bool = False) -> None:
        self._vae: Any = vae
        self._device = device
        self._one_by_one = one_by_one

    @property
    def parameter_bytes(self) -> int:
        """What the weights take in memory."""
        return parameter_bytes(self._vae)

    def warm_up(self, width: int, height: int) -> None:
        """Decode one picture of so many pixels, so that the first one does not wait for what that sets up."""
        scale = 2 ** (len(self._vae.config.block_out_channels) - 1)
        self.decode([np.zeros((self._vae.config.latent_channels, height // scale, width // scale), np.float32)])

    @torch.inference_mode()
    def decode(self, latents: Sequence[Float32[np.ndarray, "C _ _"]]) -> list[UInt8[np.ndarray, "_ _ 3"] | NonFinite]:
        """Decode a batch of any shapes; those of one shape share a forward. A picture that is not finite is an error.

        Source: diffusers `VaeImageProcessor.postprocess`.
        """
        error = NonFinite("The picture is not finite.")
        pictures: list[UInt8[np.ndarray, "_ _ 3"] | NonFinite] = [error] * len(latents)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(latents):
            shapes.setdefault(item.shape, []).append(index)
        for shape, indices in shapes.items():
            self._vae.use_slicing = self._one_by_one or max(shape) > LATENT_SIDE_SLICED
            self._vae.use_tiling = max(shape) > LATENT_SIDE_TILED
            stacked = torch.from_numpy(np.stack([latents[i] for i in indices])).to(self._device, self._vae.dtype)
            decoded = self._vae.decode(stacked / self._vae.config.scaling_factor, return_dict=False)[0].float()
            finite = decoded.isfinite().flatten(1).all(1).tolist()
            unit = (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
            for i, ok, picture in zip(indices, finite, unit, strict=True):
                if ok:
                    pictures[i] = (picture * 255).round().astype(np.uint8)
        return pictures


def load_vae_decoder(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.float32, *, one_by_one: bool = False
) -> VaeDecoder:
    """Load the decoder half of a checkpoint's autoencoder; in float32 where its config says that less overflows.

    Raises:
        UnusableCheckpoint: names the file.
    """
    if read_json(folder, "vae/config.json").get("force_upcast"):  # the class's own default would be yes
        dtype = torch.float32
    vae = load_model(AutoencoderKL, folder / "vae", device, dtype)
    vae.encoder = vae.quant_conv = None
    return VaeDecoder(vae, device, one_by_one=one_by_one)


def parameters_text(spec: ImageSpec) -> str:
    """Word a spec as the AUTOMATIC1111 web UI does, so that other tools can read it back."""
    settings = {
        "Steps": spec.num_inference_steps,
        "Sampler": SAMPLER_NAMES[spec.sampler],
        "CFG scale": spec.guidance_scale,
        "Seed": spec.seed,
        "Size": f"{spec.width}x{spec.height}",
        "Model": spec.model,
    }
    lines = [spec.prompt, f"Negative prompt: {spec.negative_prompt}"] if spec.negative_prompt else [spec.prompt]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def encode_image(pixels: UInt8[np.ndarray, "H W 3"], spec: ImageSpec, digest: str) -> bytes:
    """Encode a picture in its spec's format; a PNG carries its settings as text and as JSON."""
    image, target = Image.fromarray(pixels), io.BytesIO()
    if spec.output_format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("parameters", parameters_text(spec))
        fields = {name: getattr(spec, name) for name in spec.__slots__}
        info.add_itxt("darkroom", json.dumps(fields | {"model_digest": digest}, ensure_ascii=False))
        image.save(target, "png", pnginfo=info)
    else:
        image.save(target, spec.output_format, quality=spec.output_compression)
    return target.getvalue()
