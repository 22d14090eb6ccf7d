"""The UNet of a checkpoint: load it, and predict for rows at different timesteps."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from models.checkpoint import read_json
from models.families import sd
from models.loading import load_stage, parameter_bytes

FAMILY_MODULES: dict[str, ModuleType] = {"sd": sd}


class UNet:
    """A UNet2DConditionModel, the scheduler config that belongs to it, and how it is fed."""

    def __init__(
        self, model: UNet2DConditionModel, family: str, scheduler: dict[str, Any], scale: int, device: torch.device
    ) -> None:
        self._model: Any = model
        self._family = FAMILY_MODULES[family]
        self.scheduler_config = scheduler
        self.channels: int = self._model.config.in_channels
        self.scale = scale  # pixels to a latent cell
        self.device = device

    @property
    def parameter_bytes(self) -> int:
        """What the weights take in memory."""
        return parameter_bytes(self._model)

    @torch.inference_mode()
    def predict(
        self,
        latents: Float[Tensor, "R C h w"],
        timesteps: Float[Tensor, " R"],
        prompt_embeds: Float[Tensor, "R T D"],
    ) -> Float[Tensor, "R C h w"]:
        """Return the model's output (noise or velocity), one timestep a row."""
        inputs = self._family.unet_inputs(prompt_embeds)
        return self._model(latents, timesteps, return_dict=False, **inputs)[0]


def load_unet(folder: Path, family: str, device: torch.device) -> UNet:
    """Load the UNet of a checkpoint, and nothing else of it.

    Raises:
        UnusableCheckpoint: names the file.
    """
    model = load_stage(UNet2DConditionModel, folder / "unet", weights=True)
    scheduler = read_json(folder, "scheduler/scheduler_config.json")
    scale = 2 ** (len(read_json(folder, "vae/config.json")["block_out_channels"]) - 1)
    return UNet(model.to(device).eval(), family, scheduler, scale, device)
