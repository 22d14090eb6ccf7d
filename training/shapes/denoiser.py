"""Train the UNet of the shapes model on cached latents."""

from collections.abc import Callable
from dataclasses import dataclass
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


def velocity_of(unet: nn.Module, noisy: Tensor, timesteps: Tensor, embeds: Tensor, *conditions: Tensor) -> Tensor:
    """Return the UNet's output, float32 [N, C, h, w], computed in bfloat16."""
    # PyTorch's fused attention is slow backwards on CPU: at these sizes plain products are faster.
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(DEVICE.type, torch.bfloat16):
        return unet(noisy, timesteps, embeds, *conditions).sample.float()


class VelocityLoss(nn.Module):
    """The denoiser that is trained: its forward is the loss."""

    def __init__(self, unet: nn.Module, guidance: float) -> None:
        super().__init__()
        self.unet = unet
        self.guidance = guidance

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        embeds: Tensor,
        empty: Tensor,
        bare: Tensor,
        velocity: Tensor,
        *conditions: Tensor,
    ) -> Tensor:
        """Mean squared error of the output c with a caption from what makes guidance of the chosen scale true.

        Guidance v = u + g (c − u), u being the output without, is the true velocity where c lies 1/g of the way to it
        from u. That is what c is taught, so that the scales that people use do not drive pictures past what they
        should be. Where the caption is the empty one, `bare`, c is u and is taught the velocity itself.

        noisy, velocity [N, C, h, w]; embeds [N, tokens, width]; empty [tokens, width]; bare [N];
        conditions [N, …], what the UNet takes besides.
        """
        with torch.no_grad():
            unguided = velocity_of(self.unet, noisy, timesteps, empty.expand_as(embeds), *conditions)
        output = velocity_of(self.unet, noisy, timesteps, embeds, *conditions)
        target = torch.where(bare[:, None, None, None], velocity, unguided.lerp(velocity, 1 / self.guidance))
        return functional.mse_loss(output, target)


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


@dataclass(frozen=True, slots=True)
class Batch:
    """Which pictures a step is over, with which words, and what is laid over them."""

    rows: np.ndarray
    ids: Tensor  # [N, tokens]
    bare: Tensor  # bool [N]: the caption is the empty one
    timesteps: Tensor
    draws: Tensor  # [N, C, h, w]
    signal: Tensor  # the schedule's two factors and the overshoot, [N, 1, 1, 1]
    noise: Tensor
    overshoot: Tensor

    def noised(self, latents: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the chosen ones of `latents` under the noise, and their velocity."""
        clean = torch.from_numpy(latents[self.rows]).float()
        return overshot(clean, self.draws, self.signal, self.noise, self.overshoot)


class Batches:
    """Batches over pictures with captions, as a section of the settings wants them.

    `captions` has the same number of wordings for each picture; `shape` is that of one picture's latents.
    """

    def __init__(
        self, tokenizer: CLIPTokenizer, captions: list[list[str]], shape: tuple[int, ...], chosen: dict[str, Any]
    ) -> None:
        self.empty = tokenize(tokenizer, [""])[0]
        words = [words for row in captions for words in row]
        self._input_ids = tokenize(tokenizer, words).view(len(captions), len(captions[0]), -1)
        self._chances = likelihoods(captions, chosen["harder"])
        self._kept = new_scheduler().alphas_cumprod
        self._shape = shape
        self._chosen = chosen

    def draw(self, choose: np.random.Generator, noise: torch.Generator) -> Batch:
        """Draw a batch from the two generators."""
        chosen = self._chosen
        rows = choose.choice(len(self._input_ids), chosen["batch"], p=self._chances)
        ids = self._input_ids[rows, choose.integers(self._input_ids.shape[1], size=len(rows))].clone()
        bare = torch.from_numpy(choose.random(len(rows)) < chosen["caption_dropout"])
        ids[bare] = self.empty
        early = choose.random(len(rows)) < chosen["early_share"]
        first = np.where(early, int(len(self._kept) * chosen["early_from"]), 0)
        timesteps = torch.from_numpy(choose.integers(first, len(self._kept)))
        draws = torch.randn((len(rows), *self._shape), generator=noise)
        kept = self._kept[timesteps][:, None, None, None]
        share = choose.uniform(-1, 1, len(rows)).clip(0) * chosen["overshoot"]
        overshoot = torch.from_numpy(share).float()[:, None, None, None]
        return Batch(rows, ids, bare, timesteps, draws, kept.sqrt(), (1 - kept).sqrt(), overshoot)


@torch.no_grad()
def embed(text_encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """Return the hidden states of texts, [N, tokens, width]."""
    with torch.autocast(DEVICE.type, torch.bfloat16):
        return text_encoder(ids.long().to(DEVICE))[0]


Loss = Callable[[nn.Module, np.random.Generator, torch.Generator], Tensor]  # what `loop.train` asks for


Conditions = Callable[[Batch, np.random.Generator], tuple[Tensor, ...]]


def velocity_loss(
    text_encoder: CLIPTextModel, batches: Batches, latents: np.ndarray, conditions: Conditions = lambda *_: ()
) -> Loss:
    """Return the loss of a `VelocityLoss` over batches of `latents`, float16 [N, C, h, w], of unit deviation.

    `conditions` draws what the UNet takes besides for a batch, each [N, …].
    """
    text_encoder.to(DEVICE).eval().requires_grad_(False)

    def loss_of(module: nn.Module, choose: np.random.Generator, noise: torch.Generator) -> Tensor:
        batch = batches.draw(choose, noise)
        noisy, velocity = batch.noised(latents)
        embeds = embed(text_encoder, torch.cat([batch.ids, batches.empty[None]]))
        inputs = noisy, batch.timesteps, embeds[:-1], embeds[-1], batch.bare, velocity, *conditions(batch, choose)
        return module(*(tensor.to(DEVICE) for tensor in inputs))

    return loss_of


def train_denoiser(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, latents: np.ndarray
) -> UNet2DConditionModel:
    """Train `unet` over a frozen text encoder; `latents` float16 [N, C, h, w] are scaled to unit deviation already."""
    chosen = settings("denoiser")
    batches = Batches(tokenizer, scenes()[1], latents.shape[1:], chosen)
    loss_of = velocity_loss(text_encoder, batches, latents)
    return train("denoiser", VelocityLoss(unet, chosen["guidance"]), loss_of, chosen).unet
