"""An image while it is denoised, and the sum that advances a batch of images by one step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from models.adapters.lora_bank import NO_RANKS, RowRanks
from models.denoiser.model import DenoiserModel
from models.denoiser.start import Kept, Start, begin_with, with_noise
from models.families.base import Batch, BatchKey, Conditioning, Family
from models.sampling import HISTORY, TERMS, SamplerPlan, initial_noise
from models.spec import EncodedImage, ImageSpec
from models.text_encoder import EncodedPrompt


@dataclass(slots=True, eq=False, kw_only=True)
class DenoiseState:
    """A running image. The engine's thread owns it; others may only set `cancelled`."""

    spec: ImageSpec
    plan: SamplerPlan
    key: BatchKey
    conditioning: Sequence[Conditioning]  # of each row that it takes of a forward; the negative prompt's comes first
    history: Float[Tensor, "terms C h w"]  # what the plan's weights are of, each in its slot
    generator: torch.Generator
    loras: RowRanks = NO_RANKS  # what its rows add to the model
    kept: Kept | None = None
    cut: Mapping[str, str] = field(default_factory=dict)  # see `EncodedPrompt`
    encode_s: float = 0.0
    index: int = 0  # model calls done
    cancelled: bool = False
    joined_at: float = 0.0
    previewed_at: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of a forward that it takes."""
        return len(self.conditioning)

    @property
    def finished(self) -> bool:
        """Whether the last model call is done."""
        return self.index == len(self.plan)

    @property
    def latents(self) -> Float[Tensor, "C h w"]:
        """The newest latents, unscaled."""
        return self.history[self.index % HISTORY]

    @property
    def output(self) -> Float[Tensor, "C h w"]:
        """The model's output for the newest latents, once it is recorded."""
        return self.history[HISTORY + self.index % HISTORY]

    def advance(self, latents: Float[Tensor, "C h w"]) -> None:
        """Make `latents` the newest."""
        self.index += 1
        self.latents.copy_(latents)


def new_state(
    spec: ImageSpec,
    encoded: EncodedPrompt,
    plan: SamplerPlan,
    model: DenoiserModel,
    image: EncodedImage | None = None,
    loras: RowRanks = NO_RANKS,
) -> DenoiseState:
    """Return an image before its first step, on the model's device. It begins with `image`, else with noise.

    `loras` is what the model's bank has of its LoRAs, for as long as it runs.

    All is drawn on the CPU by the image's own generator, so that it depends on nothing but the seed.
    """
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    rows = [model.condition(spec, text) for text in encoded.rows]
    if spec.init is None or image is None:
        start = Start(initial_noise(plan, model.latent_shape(spec.width, spec.height), generator))
    else:
        start = begin_with(image, spec.init.strength, plan, generator)
    if start.masked is not None:
        masked = model.condition_on_image(*start.masked)
        rows = [{**row, **masked} for row in rows]
    history = torch.zeros(TERMS, *start.latents.shape)
    history[0] = start.latents
    return DenoiseState(
        spec=spec,
        plan=plan,
        key=model.key(spec, rows[0]),
        conditioning=rows,
        history=history.to(model.device),
        generator=generator,
        loras=loras,
        kept=start.kept and Kept(*(tensor.to(model.device) for tensor in start.kept)),
        cut=encoded.cut,
        encode_s=encoded.encode_s,
    )


def stack_rows(batch: Sequence[DenoiseState]) -> Batch:
    """Return the forward of a batch of images, all rows of an image side by side."""
    device = batch[0].history.device
    image_of_row = torch.tensor([k for k, state in enumerate(batch) for _ in range(state.rows)])
    scales = torch.tensor([state.plan.input_scale[state.index] for state in batch])
    timesteps = torch.tensor([state.plan.timesteps[state.index] for state in batch])
    latents = torch.stack([state.latents for state in batch]) * scales.to(device).view(-1, 1, 1, 1)
    conditioning = [row for state in batch for row in state.conditioning]
    loras = [state.loras for state in batch for _ in range(state.rows)]
    return Batch(latents[image_of_row], timesteps[image_of_row].to(device), conditioning, loras)


def apply_guidance(
    family: Family, output: Float[Tensor, "R C h w"], batch: Sequence[DenoiseState]
) -> Float[Tensor, "N C h w"]:
    """Combine the rows of each image as its family does. Images with as many rows are combined together."""
    counts = [state.rows for state in batch]
    kinds = set(counts)
    if len(kinds) == 1:
        return family.guide(output.unflatten(0, (len(batch), counts[0])), [state.spec for state in batch])
    of_image = output.split(counts)
    guided = output.new_empty(len(batch), *output.shape[1:])
    for rows in kinds:
        chosen = [k for k, count in enumerate(counts) if count == rows]
        guided[chosen] = family.guide(torch.stack([of_image[k] for k in chosen]), [batch[k].spec for k in chosen])
    return guided


def record_outputs(batch: Sequence[DenoiseState], outputs: Float[Tensor, "N C h w"]) -> None:
    """Make `outputs` the newest of each image, and draw the noise of the steps that want it."""
    for state, output in zip(batch, outputs, strict=True):
        state.output.copy_(output)
        if state.plan.draws_noise[state.index]:
            state.history[-1].copy_(torch.randn(output.shape, generator=state.generator))


def next_latents(batch: Sequence[DenoiseState]) -> Float[Tensor, "N C h w"]:
    """x[i+1] = Σ a_j·x[i−j] + Σ b_j·out[i−j] + d·noise: one sum for any mix of samplers.

    What is kept of an image replaces its part of the result.
    """
    history = torch.stack([state.history for state in batch])
    weights = torch.stack([state.plan.weights[state.index] for state in batch])
    latents = torch.einsum("nk,nkchw->nchw", weights.to(history.device), history)
    for state, new in zip(batch, latents, strict=True):
        if state.kept is not None:
            image, noise, where = state.kept
            new.copy_(torch.where(where, with_noise(state.plan, state.index + 1, image, noise), new))
    return latents
