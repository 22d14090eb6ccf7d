"""LoRAs and embeddings with random weights for any checkpoint, in the layouts that trainers write."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

Layout = Literal["kohya", "diffusers", "peft"]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
ALL = (*ATTENTION, "proj", "fc1", "fc2", "ff.net.2", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv")
KOHYA_PREFIX = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
DIFFUSERS = {"to_q": "to_q.lora", "q_proj": "q_proj.lora_linear_layer"}


def write_lora(
    path: Path,
    components: Mapping[str, nn.Module],
    layout: Layout = "kohya",
    *,
    rank: int = 4,
    alpha: float = 2.0,
    targets: tuple[str, ...] = ATTENTION,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a LoRA of the modules of `components` whose names end as `targets` say; return its path."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    several = "text_encoder_2" in components
    for component, model in components.items():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and name.endswith(targets):
                tensors |= _of_module(component, name, module, layout, rank, alpha, several, generator)
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    extra = {"format": "pt", **(metadata or {})}
    if layout == "peft":
        config = LoraConfig(r=rank, lora_alpha=int(alpha), target_modules=list(targets)).to_dict()
        config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
        entries = {f"{component}.{name}": value for component in components for name, value in config.items()}
        extra["lora_adapter_metadata"] = json.dumps(entries)
    save_file(tensors, path, extra)
    return path


def _of_module(
    component: str,
    name: str,
    module: nn.Linear | nn.Conv2d,
    layout: Layout,
    rank: int,
    alpha: float,
    several: bool,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    kernel = module.kernel_size if isinstance(module, nn.Conv2d) else ()
    ones = (1, 1) if kernel else ()
    fan_in = module.weight[0].numel()
    down = torch.randn(rank, module.weight.shape[1], *kernel, generator=generator) * (0.5 / fan_in**0.5)
    up = torch.randn(module.weight.shape[0], rank, *ones, generator=generator) * (1.0 / rank**0.5)
    is_text = component.startswith("text")
    full = f"text_model.{name.removeprefix('text_model.')}" if is_text else name
    if layout == "kohya":
        prefix = KOHYA_PREFIX[component] + ("1" if several and component == "text_encoder" else "")
        key = f"{prefix}_{full.replace('.', '_')}"
        return {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
    if layout == "peft":
        return {f"{component}.{full}.lora_A.weight": down, f"{component}.{full}.lora_B.weight": up}
    own = f"{component}.{full}.{'lora_linear_layer' if is_text else 'lora'}"
    return {f"{own}.down.weight": down, f"{own}.up.weight": up}


def sum_of(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_embedding(path: Path, *shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write a textual inversion with a random tensor of each shape: one, or `clip_l` and `clip_g`; return its path."""
    generator = torch.Generator().manual_seed(seed)
    names = ("emb_params",) if len(shapes) == 1 else ("clip_l", "clip_g")
    tensors = {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in zip(names, shapes, strict=True)
    }
    save_file(tensors, path)
    return path
