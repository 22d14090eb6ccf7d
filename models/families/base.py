"""What a family is: all that Darkroom knows of one architecture, in one module beside this one. No torch at import.

A new family is its module and a line in `registry`. The Dispatcher and the API load the half that has no tensors; the
methods below "with torch" import it themselves, and only stages call them.

Three shapes pass between a family and the stages. A *conditioning* holds the named tensors that steer one row, besides
its latents and timestep. A `BatchKey` is what images must have in common to share a forward. A `Batch` is one forward.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from models.errors import UnusableAdapter
from models.parameters import SAMPLERS, PromptSyntax, model_calls
from models.prompt_grammar import references

if TYPE_CHECKING:
    from torch import Tensor

    from models.adapters.embedding_file import Vectors
    from models.adapters.lora_bank import LowRank, RowRanks
    from models.checkpoint.sizes import Size, SizeEntries
    from models.spec import Embedding, ImageSpec, Lora, Tokens

Domain = Literal["text", "latents", "pixels"]  # of the tensors that a stage computes
Conditioning = Mapping[str, "Tensor"]  # of one row, by the names that the family's denoiser has for them
Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # name -> shape, in the order of the names


@dataclass(frozen=True, slots=True)
class Component:
    """A subfolder of a checkpoint: the package that reads it and the classes that `model_index.json` may name."""

    domain: Domain
    package: Literal["transformers", "diffusers"]
    classes: tuple[str, ...]  # the first one loads it
    weights: str = ""  # file name of the weights, without variant and suffix; empty: a tokenizer
    least_size: "Callable[[SizeEntries], Size] | None" = None  # least size of its config's model; None: a tokenizer
    module: str = ""  # where the classes are, if not in the package itself

    @property
    def source(self) -> str:
        """The module of the classes, which `model_index.json` names too."""
        return self.module or self.package


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the configs of a checkpoint say."""

    side: int  # pixels that it was trained for
    size_multiple: int  # pixels; width and height are multiples of it
    max_tokens: int  # of a prompt, without start and end
    text_width: int | None = None  # of what the denoiser attends to, if LoRAs are told apart by it
    embedding_widths: tuple[int, ...] = ()  # of a token in each text encoder that takes embeddings
    own_words: tuple[str, ...] = ()  # in `<word>`: tokens that were added to the tokenizer
    max_clip_skip: int = 0  # last layers of the text encoders that a prompt may skip
    defaults: Mapping[str, Any] = field(default_factory=dict)  # where its requests differ from other checkpoints'
    embedded_guidance: bool = False  # distilled: the guidance scale is an input, in place of a second row
    requires: tuple[str, ...] = ()  # paths of a request without which there is no image, such as `init.mask`


class Text(NamedTuple):
    """The text of one row, and how it is read: all that its conditioning is made from."""

    words: str | None  # None: there is no negative prompt
    clip_skip: int = 0  # last layers of the text encoder that are skipped
    loras: "tuple[Lora, ...]" = ()  # those with parts for text encoders
    syntax: PromptSyntax = "plain"
    chunks: int = 1  # that it is read in: what is beyond is cut, and empty ones fill it up
    embeddings: "tuple[Embedding, ...]" = ()  # that it names


class Segment(NamedTuple):
    """Work of one kind within an image: so many model calls of so many rows at one size, in pixels."""

    width: int
    height: int
    rows: int
    model_calls: int


class BatchKey(NamedTuple):
    """What images must have in common to share a forward; nothing else needs to agree."""

    latent_shape: tuple[int, int, int]
    shapes: Shapes  # of a row's conditioning
    dtype: Any  # torch.dtype

    @property
    def cells(self) -> int:
        """Latent cells of a row: what a row costs, relative to other keys."""
        return self.latent_shape[1] * self.latent_shape[2]


class Batch(NamedTuple):
    """One forward. Latents and conditioning have the model's dtype, timesteps are float32."""

    latents: "Tensor"  # [R, C, h, w]
    timesteps: "Tensor"  # [R]
    conditioning: Sequence[Conditioning]  # of each row
    loras: "Sequence[RowRanks]" = ()  # of each row; empty: there is no bank of them

    def stacked(self, name: str) -> "Tensor":
        """Return one tensor of all rows, [R, …]."""
        import torch

        return torch.stack([row[name] for row in self.conditioning])

    def rows(self, index: "Tensor") -> "Batch":
        """Return the rows that `index` names, in that order."""
        rows = index.tolist()
        loras = [self.loras[row] for row in rows] if self.loras else ()
        return Batch(self.latents[index], self.timesteps[index], [self.conditioning[row] for row in rows], loras)


class TextComponents(NamedTuple):
    """What the stage of text has loaded."""

    loaded: Mapping[str, Any]  # components by their subfolders
    index: Mapping[str, Any]  # the checkpoint's model_index.json
    device: Any  # torch.device
    max_chunks: int = 1  # that a text of weighted syntax may have
    embeddings: "Mapping[str, Vectors]" = MappingProxyType({})  # of the texts, by their digests


class Family(ABC):
    """One architecture. `folder` is a checkpoint's; tensors are as the diffusers pipeline has them."""

    name: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]  # `_class_name` in model_index.json
    components: ClassVar[Mapping[str, Component]]  # by their subfolders
    denoiser: ClassVar[str]  # the component that is called at each step
    vae: ClassVar[str] = "vae"
    image_rows: ClassVar[int] = 2  # the greatest number of `texts` of an image
    samplers: ClassVar[tuple[str, ...]] = SAMPLERS  # those offered, if they work with a checkpoint's scheduler config
    last_text_layer: ClassVar[int] = 1  # that a prompt is read from if it skips none, counted from the last one
    vae_upcasts: ClassVar[bool] = False  # whether the VAE is computed in float32 by default
    scheduler_repairs: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # pipeline -> what it changes in old configs
    scheduler_needs: ClassVar[tuple[str, ...]] = ("set_timesteps", "step")  # what its pipelines use of a scheduler

    def parts(self, domain: Domain) -> tuple[str, ...]:
        """Return the files and subfolders that a stage reads; the stage of latents needs the VAE's config, too."""
        own = (name for name, component in self.components.items() if component.domain == domain)
        others = {"text": (), "latents": ("scheduler", self.vae), "pixels": ()}[domain]
        return ("model_index.json", *own, *others)

    @abstractmethod
    def check(self, folder: Path, pipeline: str) -> None:
        """Check that the components fit each other. Raises UnusableCheckpoint, which names the entry that does not."""

    @abstractmethod
    def latent_scale(self, folder: Path) -> int:
        """Return how many pixels wide a latent cell is. Raises UnusableCheckpoint."""

    @abstractmethod
    def facts(self, folder: Path, pipeline: str) -> Facts:
        """Return what the configs say. Raises UnusableCheckpoint."""

    def is_guided(self, spec: "ImageSpec") -> bool:
        """Return whether the guidance scale changes the image."""
        return spec.embedded_guidance or spec.guidance_scale > 1

    def texts(self, spec: "ImageSpec") -> tuple[Text, ...]:
        """Return the text of each row of an image, in the rows' order. A negative prompt skips no layers.

        Source: diffusers `StableDiffusionPipeline.encode_prompt`.
        """
        prompt = _text(spec.prompt, spec)._replace(clip_skip=spec.clip_skip)
        if spec.embedded_guidance or not self.is_guided(spec):
            return (prompt,)
        return (_text(spec.negative_prompt or None, spec), prompt)

    def segments(self, spec: "ImageSpec") -> tuple[Segment, ...]:
        """Return the work of each pass of an image: the one source of its cost, its estimates and its demand."""
        rows = len(self.texts(spec))
        return tuple(
            Segment(one.width, one.height, rows, model_calls(one.sampler, one.num_inference_steps, self.begin(one)))
            for one in spec.passes
        )

    def begin(self, spec: "ImageSpec") -> int:
        """Return the first step of a pass that begins with an image; of others, and of pure noise, 0.

        Source: diffusers `StableDiffusionImg2ImgPipeline.get_timesteps`.
        """
        steps = spec.num_inference_steps
        return 0 if spec.init is None else steps - min(int(steps * spec.init.strength), steps)

    def timestep_options(self, spec: "ImageSpec") -> dict[str, Any]:
        """Return what the scheduler's `set_timesteps` takes besides the number of steps, such as `mu`; JSON values."""
        return {}

    # -- with torch

    @abstractmethod
    def count_tokens(self, text: TextComponents, prompt: Text) -> "Tokens":
        """Return how many tokens a prompt has, and what of it lies beyond the last one that is read."""

    @abstractmethod
    def encode(self, text: TextComponents, texts: Sequence[Text]) -> list[Conditioning]:
        """Return the conditioning of each text, float32 on the CPU. They share a forward, with a row for each chunk.

        It is cached by its `Text` alone, so it must not depend on the request or on the other texts.
        """

    @abstractmethod
    def condition(self, config: Any, spec: "ImageSpec", text: Conditioning) -> Conditioning:
        """Return all that steers a row of an image: its text, and what else a denoiser of this config takes."""

    def condition_on_image(self, config: Any, mask: "Tensor", masked: "Tensor") -> Conditioning:
        """Return what steers the rows of an image whose model requires a mask.

        Args:
            config: of the denoiser.
            mask: float [h, w], 1 where the image is made anew.
            masked: latents [C, h, w] of the image with nothing where it is made anew.
        """
        return {}

    @abstractmethod
    def expected_shapes(
        self, config: Any, max_tokens: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a row's conditioning with a text of `max_tokens`, for forwards before the first text."""

    def shared_shapes(self, conditioning: Conditioning) -> dict[str, tuple[int, ...]]:
        """Return the shapes that rows must have in common to share a forward: those of all that is stacked.

        They are the same for all rows of an image. A tensor whose length may differ from row to row has the same
        representative shape for every row, that of `expected_shapes`: forwards are measured, proved and compiled with
        noise of these shapes.
        """
        return {name: tuple(tensor.shape) for name, tensor in conditioning.items()}

    def read_lora(self, path: Path, components: Collection[str], config: Any = None) -> "dict[str, dict[str, LowRank]]":
        """Return what a LoRA file adds to each module of `components`; `config` is the denoiser's, if it is among them.

        Raises:
            UnusableAdapter: it is not for this family, or cannot be read.
        """
        raise UnusableAdapter(f"cannot be used: models of the family {self.name} take no LoRAs.")

    @abstractmethod
    def latent_channels(self, config: Any) -> int:
        """Return the channels of the latents that a denoiser of this config is for."""

    @abstractmethod
    def predict(self, model: Any, batch: Batch) -> "Tensor":
        """Call the denoiser; return what the scheduler's step takes as the model's output, [R, C, h, w].

        All that the model takes once per batch must follow from the batch's key.
        """

    def guide(self, outputs: "Tensor", specs: Sequence["ImageSpec"]) -> "Tensor":
        """Combine the rows of images, [N, rows, C, h, w], to one output of each, [N, C, h, w].

        Source: classifier-free guidance, Ho & Salimans 2022 (arXiv:2207.12598); `rescale_guidance` after it.
        """
        if outputs.shape[1] == 1:
            return outputs[:, 0]
        scale = outputs.new_tensor([spec.guidance_scale for spec in specs]).view(-1, 1, 1, 1)
        negative, prompt = outputs.unbind(1)
        guided = negative + scale * (prompt - negative)
        rescale_guidance(guided, prompt, specs)
        return guided

    @abstractmethod
    def to_vae(self, latents: "Tensor", config: Any) -> "Tensor":
        """Return what a VAE of this config decodes, of latents [images, C, h, w]."""

    @abstractmethod
    def from_vae(self, latents: "Tensor", config: Any) -> "Tensor":
        """Return the denoiser's latents, of those that a VAE of this config has encoded: the inverse of `to_vae`."""


def _text(words: str | None, spec: "ImageSpec") -> Text:
    """Return a text of an image, with the adapters that change it: not with the embeddings of the other text."""
    syntax = spec.prompt_syntax
    names = {found.name for found in references(words or "", syntax)} if spec.embeddings else ()
    return Text(
        words,
        loras=tuple(lora for lora in spec.loras if lora.changes_text),
        syntax=syntax,
        embeddings=tuple(each for each in spec.embeddings if each.name in names),
    )


def rescale_guidance(guided: "Tensor", prompt: "Tensor", specs: Sequence["ImageSpec"]) -> None:
    """Scale guided outputs [N, C, h, w], in place, towards the deviation of the prompt's own [N, C, h, w].

    Each image is reduced alone: the bits of a reduction depend on how many images share it.
    Source: Lin et al. 2023 (arXiv:2305.08891), section 3.4; diffusers `rescale_noise_cfg`.
    """
    for output, own, share in zip(guided, prompt, (spec.guidance_rescale for spec in specs), strict=True):
        if share > 0:
            output *= share * own.std() / output.std() + (1 - share)


def frozen_shapes(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Return shapes as a part of a `BatchKey`."""
    return tuple(sorted(shapes.items()))
