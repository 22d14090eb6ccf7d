"""Train the AutoencoderKL of the shapes model on crops of the drawn scenes."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from training.shapes.data import to_tensor
from training.shapes.loop import DEVICE, settings, train
from training.shapes.outlines import SIZE
from training.shapes.scenes import draw, random_training_scene

CELL = 8  # pixels to a latent cell, both ways


def new_autoencoder() -> AutoencoderKL:
    """Eight pixels to a latent cell, eight latent channels, no attention."""
    return AutoencoderKL(
        block_out_channels=(32, 48, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=16,
        sample_size=128,
        mid_block_add_attention=False,
        force_upcast=False,  # bfloat16 is enough
    )


class Reconstruction(nn.Module):
    """L1 and L2 of the reconstruction, with a KL term small enough to leave detail alone.

    L1 comes twice, the second time of local means: pixel by pixel a faint glow costs next to nothing.

    What is decoded is not quite what was encoded, as a denoiser's latents never are: half are stretched by up to
    `stretch`, since guidance drives latents beyond any that an encoder makes, and half are given noise of up to
    `noise` of their deviation, so that codes lie far apart and a small error stays small in the picture.
    """

    def __init__(self, autoencoder: AutoencoderKL, kl_weight: float, stretch: float, noise: float) -> None:
        super().__init__()
        self.autoencoder, self.kl_weight, self.stretch, self.noise = autoencoder, kl_weight, stretch, noise

    def forward(self, pixels: Tensor, draws: torch.Generator) -> Tensor:
        """Loss of one batch, float32 [N, 3, H, W] in −1 … 1."""

        def half_the_rows(most: float) -> Tensor:
            return most * torch.rand(len(pixels), 1, 1, 1, generator=draws).mul(2).sub(1).clamp(min=0).to(DEVICE)

        with torch.autocast(DEVICE.type, torch.bfloat16):
            posterior = self.autoencoder.encode(pixels).latent_dist
            mean = posterior.mean.float()
            deviation = (posterior.var + (half_the_rows(self.noise) * mean.std()) ** 2).sqrt()
            sample = mean + deviation * torch.randn(mean.shape, generator=draws).to(DEVICE)
            output = self.autoencoder.decode(sample * (1 + half_the_rows(self.stretch))).sample
        output = output.float()
        error = functional.l1_loss(output, pixels) + functional.mse_loss(output, pixels)
        error = error + 2 * functional.l1_loss(functional.avg_pool2d(output, 4), functional.avg_pool2d(pixels, 4))
        return error + self.kl_weight * posterior.kl().float().mean()


def random_crop(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene and cut a square of `side` pixels that shows some of a thing: plain ground is learnt in no time.

    Cuts lie between latent cells, so that tiles, blocks and stripes fall on the cells as they do in a whole picture.
    """
    scene = random_training_scene(rng)
    thing = scene.things[rng.integers(len(scene.things))]
    middle = np.array([thing.y, thing.x]) + SIZE / 2 + rng.uniform(-1.5, 1.5, 2) * thing.radius
    top, left = ((middle - side / 2).clip(0, SIZE - side) / CELL).round().astype(int) * CELL
    return draw(scene, rng)[top : top + side, left : left + side]


def train_autoencoder(autoencoder: AutoencoderKL) -> AutoencoderKL:
    """Return the trained autoencoder; continues a run that was interrupted."""
    chosen = settings("autoencoder")

    def loss_of(module: nn.Module, choose: np.random.Generator, noise: torch.Generator) -> Tensor:
        crops = [random_crop(chosen["crop"], choose) for _ in range(chosen["batch"])]
        return module(to_tensor(np.stack(crops)), noise)

    module = Reconstruction(autoencoder, chosen["kl_weight"], chosen["stretch"], chosen["noise"])
    return train("autoencoder", module, loss_of, chosen).autoencoder
