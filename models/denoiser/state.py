"""One picture in the making, and the sum that advances a batch of them by one step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from models.sampling import HISTORY, TERMS, SamplerPlan, initial_noise
from models.spec import ImageSpec
from models.text_encoder import PromptEmbeds


class BatchKey(NamedTuple):
    """Pictures with equal keys can share a forward; nothing else needs to agree."""

    latent_shape: tuple[int, int, int]
    embed_shape: tuple[int, int]
    dtype: torch.dtype

    @property
    def cells(self) -> int:
        """Latent cells of a row: what a row costs, relative to other keys."""
        return self.latent_shape[1] * self.latent_shape[2]


@dataclass(slots=True, eq=False, kw_only=True)
class DenoiseState:
    """A running picture. The engine's thread owns it; others may only set `cancelled`."""

    spec: ImageSpec
    plan: SamplerPlan
    embeds: Float[Tensor, "rows tokens width"]  # the negative prompt's first, when guided
    terms: Float[Tensor, "terms C h w"]  # the newest latents, then older; the newest output, then older; noise
    generator: torch.Generator
    cut: str = ""
    encode_s: float = 0.0
    index: int = 0  # model calls done
    cancelled: bool = False
    joined_at: float = 0.0
    previewed_at: float = field(default=0.0)

    @property
    def key(self) -> BatchKey:
        """What others must equal to share a forward."""
        channels, height, width = self.terms.shape[1:]
        tokens, embed_width = self.embeds.shape[1:]
        return BatchKey((channels, height, width), (tokens, embed_width), self.terms.dtype)

    @property
    def rows(self) -> int:
        """Rows of a forward that this picture takes."""
        return self.spec.rows

    @property
    def finished(self) -> bool:
        """Whether the last model call is done."""
        return self.index == len(self.plan)

    @property
    def latents(self) -> Float[Tensor, "C h w"]:
        """The newest latents, unscaled."""
        return self.terms[0]

    def advance(self, latents: Float[Tensor, "C h w"]) -> None:
        """Make `latents` the newest."""
        self.terms[1:HISTORY] = self.terms[: HISTORY - 1].clone()
        self.terms[0] = latents
        self.index += 1


def new_state(
    spec: ImageSpec, embeds: PromptEmbeds, plan: SamplerPlan, *, channels: int, scale: int, device: torch.device
) -> DenoiseState:
    """Return a picture at its first step; `channels` of latents, `scale` pixels to a latent cell.

    The noise is drawn on the CPU by the picture's own generator, so that it depends on nothing but the seed.
    """
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    terms = torch.zeros(TERMS, channels, spec.height // scale, spec.width // scale)
    terms[0] = initial_noise(plan, (channels, spec.height // scale, spec.width // scale), generator)
    rows = [embeds.prompt_embeds]
    if embeds.negative_prompt_embeds is not None:
        rows.insert(0, embeds.negative_prompt_embeds)
    return DenoiseState(
        spec=spec,
        plan=plan,
        embeds=torch.stack(rows).to(device),
        terms=terms.to(device),
        generator=generator,
        cut=embeds.cut,
        encode_s=embeds.encode_s,
    )


def stack_rows(batch: Sequence[DenoiseState]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the UNet sees: scaled latents [R, C, h, w], timesteps [R], embeddings [R, T, D]."""
    latents, timesteps = [], []
    for state in batch:
        latents += [state.latents * state.plan.input_scale[state.index]] * state.rows
        timesteps += [state.plan.timesteps[state.index]] * state.rows
    return torch.stack(latents), torch.stack(timesteps).to(latents[0].device), torch.cat([s.embeds for s in batch])


def guided(output: Float[Tensor, "R C h w"], batch: Sequence[DenoiseState]) -> Float[Tensor, "N C h w"]:
    """Combine the two rows of each guided picture (Ho & Salimans 2022, arXiv:2207.12598); leave the others."""
    last = torch.tensor([state.rows for state in batch]).cumsum(0) - 1
    first = torch.tensor([row - state.rows + 1 for row, state in zip(last.tolist(), batch, strict=True)])
    scale = output.new_tensor([state.spec.guidance_scale if state.rows == 2 else 1.0 for state in batch])
    prompt, negative = output[last], output[first]
    return negative + scale.view(-1, 1, 1, 1) * (prompt - negative)


def remember(batch: Sequence[DenoiseState], outputs: Float[Tensor, "N C h w"]) -> None:
    """Make `outputs` the newest of each picture, and draw the noise of the steps that want it."""
    for state, output in zip(batch, outputs, strict=True):
        state.terms[HISTORY + 1 : 2 * HISTORY] = state.terms[HISTORY : 2 * HISTORY - 1].clone()
        state.terms[HISTORY] = output
        if state.plan.draws_noise[state.index]:
            state.terms[-1] = randn_tensor((1, *output.shape), generator=state.generator, dtype=output.dtype)[0]


def next_latents(batch: Sequence[DenoiseState]) -> Float[Tensor, "N C h w"]:
    """x[i+1] = Σ a_j·x[i−j] + Σ b_j·out[i−j] + d·noise: one sum for any mix of samplers."""
    terms = torch.stack([state.terms for state in batch])
    weights = torch.stack([state.plan.weights[state.index] for state in batch]).to(terms.device)
    return torch.einsum("nk,nkchw->nchw", weights, terms)
