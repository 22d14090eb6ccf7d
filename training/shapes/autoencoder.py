"""Train the AutoencoderKL of the shapes model on crops of the drawn scenes."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from training.shapes.data import scenes, to_tensor
from training.shapes.loop import DEVICE, settings, train


def new_autoencoder() -> AutoencoderKL:
    """Eight pixels to a latent cell, four latent channels, no attention."""
    return AutoencoderKL(
        block_out_channels=(32, 48, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=128,
        mid_block_add_attention=False,
    )


class Reconstruction(nn.Module):
    """L1 and L2 of the reconstruction, with a KL term small enough to leave detail alone."""

    def __init__(self, autoencoder: AutoencoderKL, kl_weight: float) -> None:
        super().__init__()
        self.autoencoder, self.kl_weight = autoencoder, kl_weight

    def forward(self, pixels: Tensor, noise: torch.Generator) -> Tensor:
        """Loss of one batch, float32 [N, 3, H, W] in −1 … 1."""
        with torch.autocast(DEVICE.type, torch.bfloat16):
            posterior = self.autoencoder.encode(pixels).latent_dist
            sample = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise).to(DEVICE)
            output = self.autoencoder.decode(sample).sample
        output = output.float()
        error = functional.l1_loss(output, pixels) + functional.mse_loss(output, pixels)
        return error + self.kl_weight * posterior.kl().float().mean()


def random_crop(picture: np.ndarray, side: int, object_share: float, rng: np.random.Generator) -> np.ndarray:
    """Cut a square of `side` pixels, mostly one around a pixel that differs from the top left corner's."""
    corner = rng.integers(picture.shape[0] - side + 1, size=2)
    if rng.random() < object_share:
        inside = np.argwhere(np.abs(picture.astype(np.int16) - picture[0, 0]).sum(-1) > 90)
        if len(inside):
            corner = (inside[rng.integers(len(inside))] - rng.integers(side, size=2)).clip(0, picture.shape[0] - side)
    return picture[corner[0] : corner[0] + side, corner[1] : corner[1] + side]


def train_autoencoder(autoencoder: AutoencoderKL) -> AutoencoderKL:
    """Return the trained autoencoder; continues a run that was interrupted."""
    chosen = settings("autoencoder")
    pixels, _ = scenes()

    def loss_of(module: nn.Module, choose: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = choose.integers(len(pixels), size=chosen["batch"])
        crops = [random_crop(pixels[row], chosen["crop"], chosen["object_share"], choose) for row in rows]
        return module(to_tensor(np.stack(crops)), noise)

    return train("autoencoder", Reconstruction(autoencoder, chosen["kl_weight"]), loss_of, chosen).autoencoder
