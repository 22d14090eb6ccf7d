"""Load one part of a checkpoint, from safetensors only, or say which file is at fault."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import torch

from models.checkpoint.files import find_weights
from models.errors import UnusableCheckpoint
from models.families.base import Family
from models.parameters import DtypeName

CGROUP = Path("/sys/fs/cgroup")


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means here."""
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def choose_dtype(name: DtypeName) -> torch.dtype:
    """Return the dtype of a name."""
    return getattr(torch, name)


def allocated_bytes(device: torch.device) -> int:
    """Return what this process's tensors take on a GPU; 0 on the CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def available_bytes() -> int:
    """Return how much memory this process may still take: of the machine, or of its container's limit (cgroup v2)."""
    free = psutil.virtual_memory().available
    limit = CGROUP / "memory.max"
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        return min(free, int(most) - int((CGROUP / "memory.current").read_text()))
    return free


def parameter_bytes(*modules: torch.nn.Module) -> int:
    """Return what the parameters of modules take in memory."""
    return sum(parameter.numel() * parameter.element_size() for each in modules for parameter in each.parameters())


def load_component(folder: Path, family: Family, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a tokenizer, or a model from safetensors straight to a device, ready to infer.

    A model has `dtype` whatever its files hold. On the CPU, weights that the files hold in `dtype` stay in the files,
    mapped: replicas of one machine share them.

    Raises:
        UnusableCheckpoint: names the folder, and what the library said or which weights are missing.
    """
    part, component = folder / name, family.components[name]
    loader = getattr(import_module(component.source), component.classes[0])
    if not component.weights:
        return _load(part, loader.from_pretrained, part, local_files_only=True)
    weights = find_weights(part, component)
    if weights.is_original:
        from models.checkpoint.conversion import load_original  # not at the top: diffusers takes seconds

        [file] = weights.files
        return _load(file.resolve(), load_original, part, loader, file.resolve(), device, dtype).eval()
    model, info = _load(
        part,
        loader.from_pretrained,
        part,
        local_files_only=True,
        variant=weights.variant,
        use_safetensors=True,
        torch_dtype=dtype,
        device_map={"": device},
        output_loading_info=True,
    )
    if missing := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise UnusableCheckpoint(f"{part}: has no {missing[0]} of its config's shape, and lacks {len(missing)} in all.")
    return model.eval()


def _load(named: Path, load: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what `load` returns. Raises UnusableCheckpoint, which says what the library said of `named`."""
    try:
        return load(*arguments, **options)
    except UnusableCheckpoint:
        raise
    except BaseException as error:  # each library raises its own kinds, tokenizers a panic that is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnusableCheckpoint(f"{named}: cannot be loaded: {reason}") from error
