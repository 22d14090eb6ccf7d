"""Train the UNet of the shapes model on cached latents."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from training.shapes.data import scenes
from training.shapes.loop import DEVICE, settings, train
from training.shapes.tokenizer import tokenize


def new_scheduler() -> DDIMScheduler:
    """v-prediction with a zero-terminal-SNR schedule (Lin et al. 2023, arXiv:2305.08891): without it the layout leaks
    through the noise in training and is missing when sampling starts."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # of no effect with trailing spacing; the pipeline warns of anything else
    )


def new_unet() -> UNet2DConditionModel:
    """Three levels of 16, 8 and 4 cells; text is attended at the lower two, which decide what goes where."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=2,
        norm_num_groups=16,
    )


class VelocityLoss(nn.Module):
    """The denoiser that is trained: its forward is the loss."""

    def __init__(self, unet: UNet2DConditionModel, guidance: float) -> None:
        super().__init__()
        self.unet = unet
        self.guidance = guidance

    def forward(
        self, noisy: Tensor, timesteps: Tensor, embeds: Tensor, empty: Tensor, bare: Tensor, velocity: Tensor
    ) -> Tensor:
        """Mean squared error of the output c with a caption from what makes guidance of the chosen scale true.

        Guidance v = u + g (c − u), u being the output without, is the true velocity where c lies 1/g of the way to it
        from u. That is what c is taught, so that the scales that people use do not drive pictures past what they
        should be. Where the caption is the empty one, `bare`, c is u and is taught the velocity itself.

        noisy, velocity [N, C, h, w]; embeds [N, tokens, width]; empty [tokens, width]; bare [N].
        """
        with torch.no_grad():
            unguided = self._velocity(noisy, timesteps, empty.expand_as(embeds))
        output = self._velocity(noisy, timesteps, embeds)
        target = torch.where(bare[:, None, None, None], velocity, unguided.lerp(velocity, 1 / self.guidance))
        return functional.mse_loss(output, target)

    def _velocity(self, noisy: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        # PyTorch's fused attention is slow backwards on CPU: at these sizes plain products are faster.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(DEVICE.type, torch.bfloat16):
            return self.unet(noisy, timesteps, embeds).sample.float()


def overshot(clean: Tensor, draws: Tensor, signal: Tensor, noise: Tensor, overshoot: Tensor) -> tuple[Tensor, Tensor]:
    """Return noisy latents in which the picture is too strong, and the velocity that leads back to it.

    The first steps of guidance overshoot: from pure noise a scale of 4 draws the picture nearly four times too strong.
    What they leave behind stays, the same amount at every later step, unless the denoiser has learnt to take it for
    noise. Where so little noise is left that the velocity would be all correction, the overshoot is scaled down.

    clean, draws and both results [N, C, h, w]; signal and noise, the schedule's two factors, and overshoot, in the
    signal's unit, [N, 1, 1, 1].
    """
    noisy = (signal + overshoot * (2 * noise).clamp(max=1)) * clean + noise * draws
    return noisy, (signal * noisy - clean) / noise


def likelihoods(captions: list[list[str]], harder: dict[str, float]) -> np.ndarray:
    """Return how likely each picture is to be chosen, float64 [N], sum 1: those whose captions have a word of `harder`
    so much more than others."""
    words = [set(" ".join(wordings).lower().replace(",", " ").split()) for wordings in captions]
    weights = np.array([np.prod([factor for word, factor in harder.items() if word in found]) for found in words])
    return weights / weights.sum()


Loss = Callable[[nn.Module, np.random.Generator, torch.Generator], Tensor]  # what `loop.train` asks for


def velocity_loss(
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    captions: list[list[str]],
    latents: np.ndarray,
    chosen: dict[str, Any],
) -> Loss:
    """Return the loss of a `VelocityLoss` over batches of `latents`, float16 [N, C, h, w], of unit deviation.

    `captions` has the same number of wordings for each; `chosen` is a section of the settings.
    """
    wordings = len(captions[0])
    input_ids = tokenize(tokenizer, [words for row in captions for words in row]).view(len(captions), wordings, -1)
    empty = tokenize(tokenizer, [""])[0]
    chances = likelihoods(captions, chosen["harder"])
    scheduler = new_scheduler()
    last = scheduler.config.num_train_timesteps
    text_encoder.to(DEVICE).eval().requires_grad_(False)

    def loss_of(module: nn.Module, choose: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = choose.choice(len(latents), chosen["batch"], p=chances)
        ids = input_ids[rows, choose.integers(wordings, size=len(rows))].clone()
        bare = torch.from_numpy(choose.random(len(rows)) < chosen["caption_dropout"])
        ids[bare] = empty
        early = choose.random(len(rows)) < chosen["early_share"]
        first = np.where(early, int(last * chosen["early_from"]), 0)
        timesteps = torch.from_numpy(choose.integers(first, last))
        clean = torch.from_numpy(latents[rows]).float()
        draws = torch.randn(clean.shape, generator=noise)
        kept = scheduler.alphas_cumprod[timesteps][:, None, None, None]
        share = choose.uniform(-1, 1, len(rows)).clip(0) * chosen["overshoot"]
        overshoot = torch.from_numpy(share).float()[:, None, None, None]
        noisy, velocity = overshot(clean, draws, kept.sqrt(), (1 - kept).sqrt(), overshoot)
        with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16):
            embeds = text_encoder(torch.cat([ids, empty[None]]).long().to(DEVICE))[0]
        inputs = noisy, timesteps, embeds[:-1], embeds[-1], bare, velocity
        return module(*(tensor.to(DEVICE) for tensor in inputs))

    return loss_of


def train_denoiser(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, latents: np.ndarray
) -> UNet2DConditionModel:
    """Train `unet` over a frozen text encoder; `latents` float16 [N, C, h, w] are scaled to unit deviation already."""
    chosen = settings("denoiser")
    loss_of = velocity_loss(text_encoder, tokenizer, scenes()[1], latents, chosen)
    return train("denoiser", VelocityLoss(unet, chosen["guidance"]), loss_of, chosen).unet
