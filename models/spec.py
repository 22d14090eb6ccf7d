"""What travels to and from the models. No torch here: every process of the service imports this."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from models.errors import InvalidRequest

Sampler = Literal["ddim", "euler", "dpmpp_2m"]
OutputFormat = Literal["png", "jpeg", "webp"]

SAMPLERS: tuple[str, ...] = get_args(Sampler)
SAMPLER_NAMES: dict[str, str] = {"ddim": "DDIM", "euler": "Euler", "dpmpp_2m": "DPM++ 2M"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """One picture with nothing left open. Width and height are pixels."""

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

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is on; at a scale of 1 or less it changes nothing."""
        return self.guidance_scale > 1

    @property
    def rows(self) -> int:
        """Rows of a forward pass that the picture takes: two when guided."""
        return 2 if self.guided else 1

    @property
    def cost(self) -> float:
        """Work in megapixel row-steps: the one cost, for fairness, caps and scaling."""
        return self.rows * self.num_inference_steps * self.width * self.height / 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a checkpoint allows and prefers."""

    id: str
    family: str
    digest: str  # SHA-256 over the weights and configs
    defaults: Mapping[str, Any]  # what a request that leaves a field out gets
    bounds: Mapping[str, tuple[int, int]]  # field -> least and greatest value, where narrower than the schema's
    size_multiple: int  # pixels; width and height are multiples of it
    samplers: tuple[str, ...]
    max_tokens: int  # the prompt's own, without start and end
    styles: tuple[str, ...] = ()  # style presets that mean something to the model; empty: all
    notice: str = ""  # a plain word on what the model can draw
    examples: tuple[Mapping[str, Any], ...] = ()
    latent_rgb: tuple[tuple[float, ...], ...] = ()  # [channels + 1][3]: latents to RGB in −1 … 1, the last row added

    def check(self, spec: ImageSpec) -> ImageSpec:
        """Return `spec` as it is.

        Raises:
            InvalidRequest: naming the field and the bound of this model that it breaks.
        """
        for name, (least, greatest) in self.bounds.items():
            if not least <= getattr(spec, name) <= greatest:
                allowed = f"{least}" if least == greatest else f"from {least} to {greatest}"
                raise InvalidRequest(f"{name} must be {allowed} for {self.id}, got {getattr(spec, name)}.", name)
        for name in ("width", "height"):
            if getattr(spec, name) % self.size_multiple:
                message = f"{name} must be a multiple of {self.size_multiple} for {self.id}, got {getattr(spec, name)}."
                raise InvalidRequest(message, name)
        if spec.sampler not in self.samplers:
            message = f"sampler must be one of {', '.join(self.samplers)} for {self.id}, got {spec.sampler}."
            raise InvalidRequest(message, "sampler")
        return spec


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUpdate:
    """What the denoiser says of one picture after a step; the last one carries the latents."""

    step: int
    steps: int
    batch_rows: int = 0  # rows of the forward that made this step
    cut: str = ""  # the end of the prompt that the text encoder did not read
    encode_s: float = 0.0
    denoise_s: float = 0.0  # since the picture joined
    preview: bytes | None = field(default=None, repr=False)  # WebP
    latents: np.ndarray | None = field(default=None, repr=False)  # float32 [C, h, w], when finished
