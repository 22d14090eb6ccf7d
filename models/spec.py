"""What travels to and from the models. No torch here: every process of the service imports this."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from pydantic import AfterValidator
from pydantic.json_schema import SkipJsonSchema

from models.families.base import Segment
from models.families.registry import FAMILIES
from models.hires import Hires
from models.parameters import Area, PromptSyntax, ResizeMode


def _known_family(name: str) -> str:
    if name not in FAMILIES:
        raise ValueError(f"must be one of {', '.join(FAMILIES)}")
    return name


class _Computed:
    """What an image computes once, as each step and each forecast reads it; no field, so nothing writes or sends it."""

    __slots__ = ("_segments", "_work")  # plain tuples, which Python's collector need not look at
    _segments: tuple[tuple[int, ...], ...]
    _work: tuple[int, int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitImage:
    """An image that another one begins with. `strength` is how much of it is made anew: 1 keeps nothing.

    Where there is a mask, only what is white in it is made anew.
    """

    input: str  # id of a stored image; empty: the result of the pass before
    strength: float
    resize_mode: ResizeMode = "crop"
    mask: str | None = None  # id of a stored image
    mask_blur: int = 4  # pixels around the mask in which the new image fades into the one that is pasted back
    area: Area = "whole"  # masked: what lies around the mask is generated in the size of the image, and pasted back
    paste_back: bool = False  # put the pixels outside the mask back after decoding; always where the area is masked

    def __post_init__(self) -> None:
        """Say so of a part, whose whole has no other pixels."""
        if self.area == "masked":
            object.__setattr__(self, "paste_back", True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA that an image is generated with; a negative weight takes away what it adds."""

    name: str  # of the file in the model's folder of adapters, without suffix
    weight: float
    sha256: str = ""  # of the file, once the job is accepted
    # What only Darkroom needs has no repr: `public_data` leaves it out.
    tensors_sha256: SkipJsonSchema[str] = field(default="", repr=False)  # of the file without its header
    changes_text: SkipJsonSchema[bool] = field(default=True, repr=False)  # whether it has parts for text encoders


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A textual inversion that a prompt names."""

    name: str  # of the file in the model's folder of embeddings, without suffix
    sha256: str  # of the file when the job was accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec(_Computed):
    """One image with nothing left open. Width and height are pixels, and those of its first pass."""

    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    seed: int
    output_format: str
    guidance_rescale: float = 0.0  # how much of the deviation that guidance adds is taken back, 0 … 1
    clip_skip: int = 0  # last layers of the text encoder that the prompt skips
    output_compression: int = 95  # quality of a JPEG or WebP file, 0 … 100
    embedded_guidance: bool = False  # the model takes the guidance scale as an input: see `ModelCard`
    init: InitImage | None = None
    hires: Hires | None = None
    loras: tuple[Lora, ...] = ()
    prompt_syntax: PromptSyntax = "plain"  # of both texts
    embeddings: tuple[Embedding, ...] = ()  # that both texts name
    family: Annotated[str, AfterValidator(_known_family)] = "sd"  # the default is for jobs stored by version 0.1

    @property
    def guided(self) -> bool:
        """Whether the guidance scale changes the image."""
        return FAMILIES[self.family].is_guided(self)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finished image, in pixels."""
        return (self.hires.width, self.hires.height) if self.hires else (self.width, self.height)

    @property
    def passes(self) -> tuple["ImageSpec", ...]:
        """What the denoiser does, one after another: each pass as an image of its own."""
        if self.hires is None:
            return (self,)
        hires, first = self.hires, replace(self, hires=None)
        init = replace(self.init or InitImage(input="", strength=1.0), strength=hires.strength)
        second = replace(first, width=hires.width, height=hires.height, num_inference_steps=hires.steps, init=init)
        return first, second

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The work of the image, as its family does it: a segment for each pass."""
        try:
            segments = self._segments
        except AttributeError:
            segments = tuple(tuple(segment) for segment in FAMILIES[self.family].segments(self))
            object.__setattr__(self, "_segments", segments)
        return tuple(map(Segment._make, segments))

    @property
    def work(self) -> tuple[int, int, float]:
        """Its rows, model calls and cost: sums of its segments."""
        try:
            return self._work
        except AttributeError:
            rows = max(segment.rows for segment in self.segments)
            work = rows, sum(segment.model_calls for segment in self.segments), self.cost_after(0)
            object.__setattr__(self, "_work", work)
            return work

    def cost_after(self, model_calls: int) -> float:
        """Return what is left of the cost after so many model calls."""
        cost = 0
        for segment in self.segments:
            left = max(0, segment.model_calls - model_calls)
            cost += left * segment.rows * segment.width * segment.height
            model_calls -= segment.model_calls - left
        return cost / 2**20

    @property
    def rows(self) -> int:
        """Rows of a forward pass that the image takes."""
        return self.work[0]

    @property
    def model_calls(self) -> int:
        """How often the model is called: what progress and estimates count."""
        return self.work[1]

    @property
    def cost(self) -> float:
        """Work in megapixel row-calls: the one cost, for fairness, caps and scaling."""
        return self.work[2]


@dataclass(frozen=True, slots=True)
class Tokens:
    """How a text is read: `count` tokens of at most `limit`, start and end not counted; `cut` is what was not read.

    A weighted text has so many `chunks`, those that are cut with them.
    """

    count: int
    limit: int
    cut: str
    chunks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedImage:
    """An image as a VAE encodes it: the normal distribution of its latents, float32 [C, h, w], as the denoiser has
    them."""

    mean: np.ndarray = field(repr=False)
    std: np.ndarray | None = field(repr=False)  # None: the latents are `mean`, and nothing is drawn
    mask: np.ndarray | None = field(default=None, repr=False)  # bool [h, w]: which cells are made anew
    masked: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)  # mean and std without those pixels
    model_digest: str = ""  # of the weights that encoded it


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUpdate:
    """What the denoiser says of one picture after a step; the last one carries the latents."""

    step: int
    steps: int
    batch_rows: int = 0  # rows of the forward that made this step
    batch_images: int = 0  # pictures of that forward
    forward_rows: int = 0  # that it had with those that only filled it up
    most_rows: int = 1  # that such a forward may have at present
    step_s: float = 0.0  # what this step took
    cut: Mapping[str, str] = field(default_factory=dict)  # field of a request -> the end of it that was not read
    encode_s: float = 0.0
    denoise_s: float = 0.0  # since the picture joined; of all passes so far
    upscale_s: float = 0.0  # between passes, so far
    model_digest: str = ""  # of the weights that made the step
    preview: bytes | None = field(default=None, repr=False)  # WebP
    latents: np.ndarray | None = field(default=None, repr=False)  # float32 [C, h, w], when finished
