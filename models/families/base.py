"""What a family is: all that Darkroom knows of one architecture, in one module beside this one. No torch at import.

A family needs nothing outside its module but a line in `registry`. Its tensors are the business of methods that import
torch themselves, as the Dispatcher and the API load the other half.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

Stage = Literal["text", "latents", "pixels"]  # of the domain of tensors that a stage computes


@dataclass(frozen=True, slots=True)
class Component:
    """A subfolder of a checkpoint: the library that reads it and the classes that `model_index.json` may name."""

    stage: Stage
    library: str
    classes: tuple[str, ...]
    weights: str = ""  # file name of the weights, without variant and suffix; empty: a tokenizer


class TextReader(NamedTuple):
    """A tokenizer and the text encoder that reads its tokens: subfolders, and the encoder's class in transformers."""

    tokenizer: str
    encoder: str
    encoder_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the configs of a checkpoint say."""

    latent_scale: int  # pixels to a latent cell
    side: int  # pixels that it was trained for
    max_tokens: int  # of a prompt, without start and end
    defaults: Mapping[str, Any] = field(default_factory=dict)  # where its requests differ from other checkpoints'
    embedded_guidance: bool = False  # distilled: the guidance scale is an input, in place of a second row


class Family(ABC):
    """One architecture. `folder` is a checkpoint's; tensors are as the diffusers pipeline has them."""

    name: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]  # `_class_name` in model_index.json
    scheduler_repairs: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # pipeline -> what it changes in old configs
    components: ClassVar[Mapping[str, Component]]  # by their subfolders
    text_readers: ClassVar[tuple[TextReader, ...]]
    denoiser: ClassVar[str]  # the component that is called at each step
    vae: ClassVar[str] = "vae"
    masks_padding: ClassVar[bool]  # where a text encoder's config says `use_attention_mask`
    empty_is_zero: ClassVar[bool]  # no prompt is zeros, unless the index says otherwise

    def parts(self, stage: Stage) -> tuple[str, ...]:
        """Return the files and subfolders that a stage reads; the stage of latents needs the VAE's config, too."""
        own = (name for name, component in self.components.items() if component.stage == stage)
        others = {"text": (), "latents": ("scheduler", self.vae), "pixels": ()}[stage]
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

    # -- with torch

    @abstractmethod
    def embed(self, outputs: Sequence[Any]) -> tuple[Any, Any]:
        """Return what the denoiser attends to [texts, tokens, width], and a pooled embedding [texts, pooled] or None.

        `outputs` are those of the text encoders, with hidden states.
        """

    @abstractmethod
    def model_inputs(self, latents: Any, hidden: Any, pooled: Any, scale: int) -> dict[str, Any]:
        """Return what the denoiser takes besides latents [rows, C, h, w] and timesteps; `scale` is pixels to a cell."""

    @abstractmethod
    def pooled_width(self, config: Any) -> int:
        """Return the width of the pooled embedding that a denoiser of this config takes; 0: none."""

    @abstractmethod
    def to_vae(self, latents: Any, config: Any) -> Any:
        """Return what a VAE of this config decodes, of latents [images, C, h, w]."""
