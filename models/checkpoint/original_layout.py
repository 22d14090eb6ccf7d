"""A checkpoint in a single file, in the layout of the original code: what it is, by its tensors' names. No torch.

Source: the names are those of CompVis' and Stability AI's code (`ldm`, `sgm`), as diffusers
`loaders/single_file_utils.py` reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.checkpoint.guard import WEIGHT_TYPES, TensorInfo, read_header
from models.errors import UnusableCheckpoint

Kind = Literal["sd1", "sd2", "sdxl"]

ORIGINAL = "original.safetensors"  # what a component's folder calls a single file that holds its weights
PREFIXES = {  # of a component's tensors; a VAE of its own has none
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.", ""),
    "text_encoder": (
        "cond_stage_model.transformer.",
        "cond_stage_model.model.",
        "conditioner.embedders.0.transformer.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")  # prefixes of its layout; others are CLIP's
VAE_MODULES = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
UNREAD_ENDINGS = ("embeddings.position_ids", "logit_scale", "text_projection.weight")  # of CLIP, in no text encoder
KINDS: dict[Kind, str] = {
    "sd1": "cond_stage_model.transformer.",
    "sd2": "cond_stage_model.model.",
    "sdxl": "conditioner.embedders.1.model.",
}
FOREIGN = {  # what a name begins with -> what the file is
    "lora_": "a LoRA",
    "control_model.": "a ControlNet",
    "conditioner.embedders.0.model.": "the refiner of Stable Diffusion XL",
    "edm_mean": "Playground v2.5, whose noise schedule is another",
    "edm_vpred.": "CosXL, whose noise schedule is another",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "FLUX",
    "double_blocks.": "FLUX",
    "down_blocks.": "the UNet of a diffusers folder",
    "text_model.": "the text encoder of a diffusers folder",
}
SERVED = "only whole checkpoints of Stable Diffusion 1.x, 2.x and XL in the original layout are served"


@dataclass(frozen=True)
class Part:
    """The tensors of one component in a single file, by their names without the prefix."""

    path: Path
    prefix: str
    tensors: Mapping[str, TensorInfo]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str, *ranks: int) -> tuple[int, ...]:
        """Return the shape of a tensor. Raises UnusableCheckpoint: there is none with so many dimensions."""
        found = self.tensors.get(name)
        if found is None or len(found.shape) not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise UnusableCheckpoint(f"{self.path}: has no tensor {self.prefix}{name} of {wanted} dimensions.")
        return found.shape

    def count(self, before: str) -> int:
        """Return how many numbered modules there are, as `blocks.0.`, `blocks.1.` are two of `blocks.`."""
        names = (name[len(before) :].partition(".")[0] for name in self.tensors if name.startswith(before))
        numbers = {int(name) for name in names if name.isdecimal() and len(name) < 6}
        return next(number for number in range(len(numbers) + 1) if number not in numbers)


def find_part(path: Path, header: Mapping[str, TensorInfo], component: str) -> Part | None:
    """Return the tensors of a component, None if there are none.

    Raises:
        UnusableCheckpoint: a tensor is of a type that is not read, such as eight-bit floats.
    """
    for prefix in PREFIXES[component]:
        found = {
            name[len(prefix) :]: info
            for name, info in header.items()
            if name.startswith(prefix or VAE_MODULES) and not name.endswith(UNREAD_ENDINGS)
        }
        for name, info in found.items():
            if info.dtype not in WEIGHT_TYPES:
                known = ", ".join(WEIGHT_TYPES)
                raise UnusableCheckpoint(f"{path}: {prefix}{name[:100]} is {info.dtype}; must be one of {known}.")
        if found:
            return Part(path, prefix, found)
    return None


def need_part(path: Path, header: Mapping[str, TensorInfo], component: str) -> Part:
    """Return the tensors of a component. Raises UnusableCheckpoint: there are none."""
    part = find_part(path, header, component)
    if part is None:
        names = " or ".join(f"{prefix}…" for prefix in PREFIXES[component] if prefix)
        raise UnusableCheckpoint(f"{path}: has no {component} (tensors {names}); {SERVED}.")
    return part


def recognise(path: Path) -> tuple[Kind, dict[str, TensorInfo]]:
    """Return what a single file is, and its header.

    Raises:
        UnusableCheckpoint: it is no safetensors file, or none of a kind that is served; says what it is.
    """
    header = read_header(path)
    for start, what in FOREIGN.items():
        if any(name.startswith(start) for name in header):
            raise UnusableCheckpoint(f"{path}: is {what}; {SERVED}.")
    need_part(path, header, "unet")
    for kind, prefix in KINDS.items():
        if any(name.startswith(prefix) for name in header):
            return kind, header
    names = " or ".join(f"{prefix}…" for prefix in KINDS.values())
    raise UnusableCheckpoint(f"{path}: has no text encoder (tensors {names}); {SERVED}.")
