"""The denoiser of a checkpoint: load it, and predict for rows at different timesteps."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.adapters.lora_bank import LoraBank, LowRank
from models.checkpoint.folder import read_scheduler
from models.checkpoint.loading import load_component, parameter_bytes
from models.errors import UnsupportedSampler
from models.families.base import Batch, BatchKey, Conditioning, Family, frozen_shapes
from models.families.registry import FAMILIES
from models.samplers import plan_for
from models.sampling import SamplerPlan
from models.spec import ImageSpec

logger = logging.getLogger(__name__)


class DenoiserModel:
    """A denoiser, the scheduler config that belongs to it, and the family that feeds it."""

    def __init__(
        self, model: Any, family: Family, scheduler_config: dict[str, Any], scale: int, device: torch.device
    ) -> None:
        self._model = model
        self._forward = model
        self.family = family
        self.scheduler_config = scheduler_config
        self.scale = scale  # pixels to a latent cell
        self.device = device
        self.dtype: torch.dtype = model.dtype
        self._bank: LoraBank | None = None

    @property
    def parameter_bytes(self) -> int:
        """What the weights take in memory."""
        return parameter_bytes(self._model)

    def compile(self) -> None:
        """Compile the forward. Each new shape, row counts included, costs its first batch a minute or more."""
        self._forward = torch.compile(self._model, dynamic=False)

    def enable_loras(self, capacity: int, row_ranks: int | None = None) -> LoraBank:
        """Return a new bank of LoRAs, from which rows add what they say. Before the first forward."""
        self._bank = LoraBank(self._model, capacity, row_ranks=row_ranks)
        return self._bank

    def read_lora(self, path: Path) -> dict[str, dict[str, LowRank]]:
        """Return what a LoRA file adds to the modules. Raises UnusableAdapter."""
        return self.family.read_lora(path, (self.family.denoiser,), self._model.config)

    @torch.inference_mode()
    def predict(self, batch: Batch, padded_rows: int | None = None) -> Float[Tensor, "R C h w"]:
        """Return the model's output of each row, float32. The last row fills the forward up to `padded_rows`."""
        rows = len(batch.latents)
        if padded_rows is not None and padded_rows > rows:
            batch = batch.rows(torch.arange(padded_rows).clamp(max=rows - 1))
        with self._bank.added_to(batch.loras) if self._bank else nullcontext():
            output = self.family.predict(self._forward, batch._replace(latents=batch.latents.to(self.dtype)))
        return output[:rows].float()

    def plan(self, spec: ImageSpec) -> SamplerPlan:
        """Return how an image's sampler steps (3 to 30 ms the first time: not on the engine's thread).

        Raises:
            UnsupportedSampler: its scheduler refuses this step count, and the log has the reason; or it cannot begin
                with another image.
        """
        steps = spec.num_inference_steps
        options, begin = self.family.timestep_options(spec), self.family.begin(spec)
        try:
            plan = plan_for(self.scheduler_config, spec.sampler, steps, options, begin)
        except UnsupportedSampler as error:
            logger.warning("%s", error)
            message = (
                f"num_inference_steps must be another number: with this model, {spec.sampler} gives no image in "
                f"{steps} steps. Another sampler may."
            )
            raise UnsupportedSampler(message, "num_inference_steps") from error
        if spec.init is not None and not plan.noised:
            raise UnsupportedSampler(f"sampler: {spec.sampler} cannot begin with an image.", "sampler")
        return plan

    def condition(self, spec: ImageSpec, text: Conditioning) -> Conditioning:
        """Return all that steers a row of an image, on the device, in the model's dtype unless it holds integers."""
        return self._placed(self.family.condition(self._model.config, spec, text))

    def condition_on_image(self, mask: Float[Tensor, "h w"], masked: Float[Tensor, "C h w"]) -> Conditioning:
        """Return what else steers the rows of an image whose model requires a mask; see `Family`."""
        return self._placed(self.family.condition_on_image(self._model.config, mask, masked))

    def key(self, spec: ImageSpec, row: Conditioning) -> BatchKey:
        """Return what an image must have in common with others to share a forward."""
        return self._key(self.latent_shape(spec.width, spec.height), self.family.shared_shapes(row))

    def expected_key(self, width: int, height: int, max_tokens: int) -> BatchKey:
        """Return the key of images of `width` x `height` pixels with a prompt of `max_tokens`."""
        latent_shape = self.latent_shape(width, height)
        return self._key(latent_shape, self.family.expected_shapes(self._model.config, max_tokens, latent_shape))

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return the shape of an image's latents, [C, h, w]; width and height are pixels."""
        return self.family.latent_channels(self._model.config), height // self.scale, width // self.scale

    def example(self, key: BatchKey, rows: int) -> Batch:
        """Return a batch of noise of one key, to measure and to prove with."""
        generator = torch.Generator("cpu").manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(self.device)

        return Batch(
            noise(rows, *key.latent_shape),
            torch.linspace(1, 999, rows, device=self.device),
            [{name: noise(*shape).to(self.dtype) for name, shape in key.shapes} for _ in range(rows)],
            [self._bank.example(k) for k in range(rows)] if self._bank else (),
        )

    def _key(self, latent_shape: tuple[int, int, int], shapes: Mapping[str, tuple[int, ...]]) -> BatchKey:
        return BatchKey(latent_shape, frozen_shapes(shapes), self.dtype)

    def _placed(self, row: Conditioning) -> Conditioning:
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in row.items()
        }


def load_denoiser(folder: Path, family: str, device: torch.device, dtype: torch.dtype = torch.float32) -> DenoiserModel:
    """Load the denoiser of a checkpoint, and nothing else of it.

    Raises:
        UnusableCheckpoint: names the file.
    """
    known = FAMILIES[family]
    model = load_component(folder, known, known.denoiser, device, dtype)
    return DenoiserModel(model, known, read_scheduler(folder), known.latent_scale(folder), device)
