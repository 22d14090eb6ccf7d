"""Load one component from a single file of the original layout, with diffusers' own conversion."""

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from transformers import CLIPTextConfig, PreTrainedModel

from models.checkpoint.guard import read_header
from models.checkpoint.original_layout import OPEN_CLIP, need_part
from models.errors import UnusableCheckpoint

Tensors = dict[str, torch.Tensor]


def load_original(part: Path, loader: Any, file: Path, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Return the model of a part's config with the weights that `file` has of it; no other tensor is read.

    Raises:
        UnusableCheckpoint: the file lacks a tensor, has one of another shape, or has more than the model.
    """
    with init_empty_weights():
        model = _empty_model(loader, part)
    found = need_part(file, read_header(file), part.name)
    with safe_open(file, framework="pt") as weights:
        tensors = {found.prefix + name: weights.get_tensor(found.prefix + name) for name in found.tensors}
    converted = _converted(model, found.prefix, tensors)
    _check_whole(model, converted, f"{file}: {part.name}")
    if found.prefix not in OPEN_CLIP and len(tensors) > len(converted):
        raise UnusableCheckpoint(
            f"{file}: {part.name} has {len(tensors)} tensors, and a model of its kind {len(converted)}."
        )
    del tensors
    for name in converted:
        converted[name] = converted[name].to(device, dtype)
    model.load_state_dict(converted, assign=True)
    return model.to(device)


def _empty_model(loader: Any, part: Path) -> Any:
    """Return a model of a part's config whose weights take no memory."""
    if issubclass(loader, PreTrainedModel):
        return loader(CLIPTextConfig.from_json_file(part / "config.json"))
    return loader.from_config(loader.load_config(part, local_files_only=True))


def _converted(model: Any, prefix: str, tensors: Tensors) -> Tensors:
    """Return tensors by the names that the library has for them."""
    if isinstance(model, UNet2DConditionModel):
        return single_file_utils.convert_ldm_unet_checkpoint(tensors, model.config)
    if isinstance(model, AutoencoderKL):
        return single_file_utils.convert_ldm_vae_checkpoint(tensors, model.config)
    if prefix in OPEN_CLIP:
        converted = single_file_utils.convert_open_clip_checkpoint(model, tensors, prefix=prefix)
    else:
        converted = single_file_utils.convert_ldm_clip_checkpoint(tensors)
    if hasattr(model, "text_model"):
        return converted
    return {name.removeprefix("text_model."): tensor for name, tensor in converted.items()}


def _check_whole(model: torch.nn.Module, converted: Tensors, named: str) -> None:
    """Check that there are all tensors of a model, of their shapes, and no others."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in wanted.items():
        if name not in converted:
            raise UnusableCheckpoint(f"{named} lacks a tensor: {name} of a diffusers folder.")
        if tuple(converted[name].shape) != shape:
            raise UnusableCheckpoint(
                f"{named}: {name} has the shape {tuple(converted[name].shape)}, and must have {shape}."
            )
    if more := sorted(converted.keys() - wanted.keys()):
        raise UnusableCheckpoint(f"{named} has {len(more)} tensors too many, such as {more[0][:100]}.")
