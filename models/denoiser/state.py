"""One picture in the making, and the sum that advances a batch of them by one step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from models.denoiser.unet import BatchKey, UNet, UNetInputs
from models.sampling import HISTORY, TERMS, SamplerPlan, initial_noise
from models.spec import ImageSpec
from models.text_encoder import PromptEmbeds


@dataclass(slots=True, eq=False, kw_only=True)
class DenoiseState:
    """A running picture. The engine's thread owns it; others may only set `cancelled`."""

    spec: ImageSpec
    plan: SamplerPlan
    key: BatchKey  # what others must equal to share a forward
    rows: int  # of a forward that it takes
    hidden: Float[Tensor, "rows tokens width"]  # text; the negative prompt's first, when guided
    pooled: Float[Tensor, "rows pooled"] | None
    guidance: Float[Tensor, "rows guidance"] | None
    terms: Float[Tensor, "terms C h w"]  # what the plan's weights are of, each in its slot
    generator: torch.Generator
    cut: str = ""
    encode_s: float = 0.0
    index: int = 0  # model calls done
    cancelled: bool = False
    joined_at: float = 0.0
    previewed_at: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the last model call is done."""
        return self.index == len(self.plan)

    @property
    def latents(self) -> Float[Tensor, "C h w"]:
        """The newest latents, unscaled."""
        return self.terms[self.index % HISTORY]

    @property
    def output(self) -> Float[Tensor, "C h w"]:
        """What the model said of the newest latents, once it has been remembered."""
        return self.terms[HISTORY + self.index % HISTORY]

    def advance(self, latents: Float[Tensor, "C h w"]) -> None:
        """Make `latents` the newest."""
        self.index += 1
        self.latents.copy_(latents)


def new_state(spec: ImageSpec, embeds: PromptEmbeds, plan: SamplerPlan, unet: UNet) -> DenoiseState:
    """Return a picture at its first step, on the UNet's device.

    The noise is drawn on the CPU by the picture's own generator, so that it depends on nothing but the seed.
    """
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    texts = [embeds.prompt_embeds]
    if embeds.negative_prompt_embeds is not None:
        texts.insert(0, embeds.negative_prompt_embeds)
    hidden = torch.stack([text.hidden for text in texts])
    pooled = [text.pooled for text in texts if text.pooled is not None]
    key = unet.key(spec.width, spec.height, tokens=hidden.shape[1])
    terms = torch.zeros(TERMS, *key.latent_shape)
    terms[0] = initial_noise(plan, key.latent_shape, generator)
    return DenoiseState(
        spec=spec,
        plan=plan,
        key=key,
        rows=len(hidden),
        hidden=hidden.to(unet.device),
        pooled=torch.stack(pooled).to(unet.device) if pooled else None,
        guidance=unet.guidance(spec.guidance_scale),
        terms=terms.to(unet.device),
        generator=generator,
        cut=embeds.cut,
        encode_s=embeds.encode_s,
    )


def stack_rows(batch: Sequence[DenoiseState]) -> UNetInputs:
    """Return what the UNet sees of a batch: one line a row, the negative prompt's before its picture's."""
    device = batch[0].terms.device
    pictures = torch.tensor([k for k, state in enumerate(batch) for _ in range(state.rows)])
    scales = torch.tensor([state.plan.input_scale[state.index] for state in batch])
    timesteps = torch.tensor([state.plan.timesteps[state.index] for state in batch])
    latents = torch.stack([state.latents for state in batch]) * scales.to(device).view(-1, 1, 1, 1)
    pooled = [state.pooled for state in batch if state.pooled is not None]
    guidance = [state.guidance for state in batch if state.guidance is not None]
    return UNetInputs(
        latents=latents[pictures],
        timesteps=timesteps[pictures].to(device),
        hidden=torch.cat([state.hidden for state in batch]),
        pooled=torch.cat(pooled) if pooled else None,
        guidance=torch.cat(guidance) if guidance else None,
    )


def guided(output: Float[Tensor, "R C h w"], batch: Sequence[DenoiseState]) -> Float[Tensor, "N C h w"]:
    """Combine the two rows of each guided picture (Ho & Salimans 2022, arXiv:2207.12598); leave the others."""
    if len(output) == len(batch):
        return output
    last = torch.tensor([state.rows for state in batch]).cumsum(0) - 1
    first = last - torch.tensor([state.rows - 1 for state in batch])
    scale = torch.tensor([state.spec.guidance_scale if state.rows == 2 else 1.0 for state in batch])
    prompt, negative = output[last], output[first]
    return negative + scale.to(output.device).view(-1, 1, 1, 1) * (prompt - negative)


def remember(batch: Sequence[DenoiseState], outputs: Float[Tensor, "N C h w"]) -> None:
    """Make `outputs` the newest of each picture, and draw the noise of the steps that want it."""
    for state, output in zip(batch, outputs, strict=True):
        state.output.copy_(output)
        if state.plan.draws_noise[state.index]:
            state.terms[-1].copy_(torch.randn(output.shape, generator=state.generator))


def next_latents(batch: Sequence[DenoiseState]) -> Float[Tensor, "N C h w"]:
    """x[i+1] = Σ a_j·x[i−j] + Σ b_j·out[i−j] + d·noise: one sum for any mix of samplers."""
    terms = torch.stack([state.terms for state in batch])
    weights = torch.stack([state.plan.weights[state.index] for state in batch])
    return torch.einsum("nk,nkchw->nchw", weights.to(terms.device), terms)
