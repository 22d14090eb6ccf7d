"""The UNet of a checkpoint: load it, and predict for rows at different timesteps."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float
from torch import Tensor

from models.checkpoint import read_scheduler
from models.families.registry import FAMILIES
from models.loading import load_component, parameter_bytes


class BatchKey(NamedTuple):
    """Pictures with equal keys can share a forward; nothing else needs to agree."""

    latent_shape: tuple[int, int, int]
    embed_shape: tuple[int, int]
    dtype: torch.dtype

    @property
    def cells(self) -> int:
        """Latent cells of a row: what a row costs, relative to other keys."""
        return self.latent_shape[1] * self.latent_shape[2]


class UNetInputs(NamedTuple):
    """One forward's rows, float32 whatever the model computes in."""

    latents: Float[Tensor, "R C h w"]
    timesteps: Float[Tensor, " R"]
    hidden: Float[Tensor, "R T D"]
    pooled: Float[Tensor, "R P"] | None = None
    guidance: Float[Tensor, "R G"] | None = None  # the scale, where the model was distilled to take it as an input

    def rows(self, index: Tensor) -> "UNetInputs":
        """Return the rows that `index` names."""
        extra = (None if field is None else field[index] for field in (self.pooled, self.guidance))
        return UNetInputs(self.latents[index], self.timesteps[index], self.hidden[index], *extra)


class UNet:
    """A UNet2DConditionModel, the scheduler config that belongs to it, and how it is fed."""

    def __init__(
        self, model: UNet2DConditionModel, family: str, scheduler: dict[str, Any], scale: int, device: torch.device
    ) -> None:
        self._model: Any = model
        self._forward: Any = model
        self._family = FAMILIES[family]
        self.scheduler_config = scheduler
        self.channels: int = self._model.config.in_channels
        self.scale = scale  # pixels to a latent cell
        self.device = device
        self.dtype: torch.dtype = self._model.dtype
        self.guidance_width: int | None = self._model.config.time_cond_proj_dim

    @property
    def parameter_bytes(self) -> int:
        """What the weights take in memory."""
        return parameter_bytes(self._model)

    def compile(self) -> None:
        """Compile the forward. Each new shape, row counts included, costs its first batch a minute or more."""
        self._forward = torch.compile(self._model, dynamic=False)

    @torch.inference_mode()
    def predict(self, inputs: UNetInputs, slots: int | None = None) -> Float[Tensor, "R C h w"]:
        """Return the model's output (noise or velocity) of each row, float32.

        The forward is filled up to `slots` rows with the last one.
        """
        rows = len(inputs.latents)
        if slots is not None and slots > rows:
            inputs = inputs.rows(torch.arange(slots, device=self.device).clamp(max=rows - 1))
        latents, hidden = inputs.latents.to(self.dtype), inputs.hidden.to(self.dtype)
        pooled = None if inputs.pooled is None else inputs.pooled.to(self.dtype)
        extra = self._family.model_inputs(latents, hidden, pooled, self.scale)
        if inputs.guidance is not None:
            extra["timestep_cond"] = inputs.guidance.to(self.dtype)
        return self._forward(latents, inputs.timesteps, return_dict=False, **extra)[0][:rows].float()

    def guidance(self, scale: float) -> Float[Tensor, "1 G"] | None:
        """Return the input that says how strong guidance is; None where guidance is a second row.

        Source: Luo et al. 2023 (arXiv:2310.04378); diffusers `StableDiffusionPipeline.get_guidance_scale_embedding`.
        """
        if self.guidance_width is None:
            return None
        weight = torch.tensor([(scale - 1) * 1000])
        return get_timestep_embedding(weight, self.guidance_width, downscale_freq_shift=1).to(self.device)

    def key(self, width: int, height: int, tokens: int) -> BatchKey:
        """Return the kind of a picture of `width` × `height` pixels and a prompt that is `tokens` long."""
        latent_shape = self.channels, height // self.scale, width // self.scale
        return BatchKey(latent_shape, (tokens, self._model.config.cross_attention_dim), self.dtype)

    def example(self, key: BatchKey, rows: int) -> UNetInputs:
        """Return rows of noise of one kind, to measure and to prove with."""
        generator = torch.Generator("cpu").manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(rows, *shape, generator=generator).to(self.device)

        pooled = self._family.pooled_width(self._model.config)
        return UNetInputs(
            latents=noise(*key.latent_shape),
            timesteps=torch.linspace(1, 999, rows, device=self.device),
            hidden=noise(*key.embed_shape),
            pooled=noise(pooled) if pooled else None,
            guidance=noise(self.guidance_width) if self.guidance_width else None,
        )


def load_unet(folder: Path, family: str, device: torch.device, dtype: torch.dtype = torch.float32) -> UNet:
    """Load the UNet of a checkpoint, and nothing else of it.

    Raises:
        UnusableCheckpoint: names the file.
    """
    model = load_component(UNet2DConditionModel, folder, family, FAMILIES[family].denoiser, device, dtype)
    return UNet(model, family, read_scheduler(folder), FAMILIES[family].latent_scale(folder), device)
