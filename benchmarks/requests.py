"""The model that rivals and Darkroom serve, and what is asked of it."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import ROOT
from models.checkpoint.card import read_card
from models.spec import ImageSpec

SHAPES = ROOT / "models" / "checkpoints" / "shapes"
CARD = read_card(str(SHAPES))
THREADS = min(os.cpu_count() or 1, 8)
MAX_ROWS = 16
FIELDS = ("prompt", "num_inference_steps", "guidance_scale", "sampler", "seed")


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests, and the PNG files of the images and masks that they begin with, by the names in their `init`."""

    specs: Sequence[ImageSpec]
    files: Mapping[str, bytes] = field(default_factory=dict)

    def split(self, size: int) -> list["Requests"]:
        """Return them in order, `size` at a time, each part with its own files."""
        return [self._part(self.specs[start : start + size]) for start in range(0, len(self.specs), size)]

    def _part(self, specs: Sequence[ImageSpec]) -> "Requests":
        names = {name for spec in specs if spec.init for name in (spec.init.input, spec.init.mask) if name}
        return Requests(specs, {name: self.files[name] for name in names})


def together(parts: Iterable[Requests]) -> Requests:
    """Return the requests of all parts, in order; no two files have one name."""
    specs, files = [], {}
    for part in parts:
        specs += part.specs
        files |= part.files
    return Requests(specs, files)


def a_request(seed: int, steps: int, guidance: float = 4.0, sampler: str = "ddim") -> ImageSpec:
    """One picture of the shapes model."""
    colours, shapes = ("red", "blue", "green", "yellow"), ("circle", "star", "heart")
    prompt = f"a {colours[seed % 4]} {shapes[seed % 3]} on a white background"
    chosen = dict(CARD.defaults) | {"num_inference_steps": steps, "guidance_scale": guidance, "sampler": sampler}
    return CARD.spec(model=CARD.id, prompt=prompt, seed=seed, **chosen)


def body_of(spec: ImageSpec) -> dict[str, Any]:
    """Return a request as HTTP has it."""
    body = {name: getattr(spec, name) for name in FIELDS}
    return body if spec.init is None else body | {"init": asdict(spec.init)}


def png(image: Image.Image | np.ndarray) -> bytes:
    """Return an image, or its uint8 or bool pixels, as a file."""
    target = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(target, "png")
    return target.getvalue()
