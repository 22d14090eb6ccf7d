"""Load one part of a checkpoint, from safetensors only, or say which file is at fault."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from models.errors import UnusableCheckpoint
from models.families import sd, sdxl

FAMILY_MODULES: dict[str, ModuleType] = {"sd": sd, "sdxl": sdxl}


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means here."""
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def choose_dtype(name: str) -> torch.dtype:
    """Return the dtype that `float32` or `bfloat16` names."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def allocated_bytes(device: torch.device) -> int:
    """Return what this process's tensors take on a GPU; 0 on the CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def parameter_bytes(*modules: torch.nn.Module) -> int:
    """Return what the parameters of modules take in memory."""
    return sum(parameter.numel() * parameter.element_size() for each in modules for parameter in each.parameters())


def load_stage(loader: Any, folder: Path, dtype: torch.dtype | None = None) -> Any:
    """Call `loader.from_pretrained(folder)`; what has weights comes in `dtype`, whatever the file holds.

    Raises:
        UnusableCheckpoint: names the folder, with the first line of what the library said.
    """
    options = {"use_safetensors": True, "torch_dtype": dtype} if dtype is not None else {}
    try:
        return loader.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # each library raises its own kinds; the reason is what an operator needs
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnusableCheckpoint(f"{folder}: cannot be loaded: {reason}") from error
