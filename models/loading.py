"""Load one part of a checkpoint, from safetensors only, or say which file is at fault."""

from pathlib import Path
from typing import Any

import torch

from models.errors import UnusableCheckpoint


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means here."""
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def parameter_bytes(module: torch.nn.Module) -> int:
    """Return what a module's parameters take in memory."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def load_stage(loader: Any, folder: Path, *, weights: bool = False) -> Any:
    """Call `loader.from_pretrained(folder)`; models come in fp32, whatever the file holds.

    Raises:
        UnusableCheckpoint: names the folder, with the first line of what the library said.
    """
    options = {"use_safetensors": True, "torch_dtype": torch.float32} if weights else {}
    try:
        return loader.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # each library raises its own kinds; the reason is what an operator needs
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnusableCheckpoint(f"{folder}: cannot be loaded: {reason}") from error
