"""Read a LoRA file into the matrices of each module that it changes."""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors import safe_open
from torch import Tensor

from models.adapters.lora_bank import OLD_LEVEL, LowRank
from models.adapters.lora_header import PREFIXES
from models.errors import UnusableAdapter

logger = logging.getLogger(__name__)

PEFT_METADATA = "lora_adapter_metadata"  # where diffusers keeps a LoRA's config


def read_lora(path: Path, components: Collection[str], unet_config: Any = None) -> dict[str, dict[str, LowRank]]:
    """Return the matrices of a LoRA file whose header `read_lora_header` has passed, float32, alpha folded in.

    They are of each module, by its name, of each of `components`. `unet_config` is the config of the UNet that it is
    for: block numbers of other layouts are read by it.

    Raises:
        UnusableAdapter: keys that diffusers cannot convert, or numbers that are not finite.
    """
    prefixes = tuple(prefix for component in components for prefix in PREFIXES[component])
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118
        raw = {name: file.get_tensor(name).float() for name in names}
    bad = next((name for name, tensor in raw.items() if not tensor.isfinite().all()), None)
    if bad is not None:
        raise UnusableAdapter(f"{bad} has numbers that are not finite.")
    try:
        converted = StableDiffusionXLLoraLoaderMixin.lora_state_dict(_alpha_folded(raw), unet_config=unet_config)[0]
    except UnusableAdapter:
        raise
    except Exception as error:  # the conversion raises whatever its parsing of names meets
        logger.warning("%s: %r", path, error)
        raise UnusableAdapter("has names of tensors in no layout that diffusers knows.") from error
    configs = _configs(metadata)
    found: dict[str, dict[str, LowRank]] = {}
    for component in components:
        own = {n.removeprefix(f"{component}."): t for n, t in converted.items() if n.startswith(f"{component}.")}
        found[component] = _pairs(_as_peft(component, own), configs.get(component, {})) if own else {}
    return found


def _alpha_folded(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without `alpha`, by which `up` is scaled instead: alpha over the rank."""
    kept = {name: tensor for name, tensor in raw.items() if not name.endswith(".alpha")}
    for name in raw.keys() - kept.keys():
        up = name.removesuffix(".alpha") + ".lora_up.weight"
        if up not in kept:
            raise UnusableAdapter(f"{name} belongs to no lora_up.")
        kept[up] = kept[up] * (float(raw[name]) / kept[up].shape[1])
    return kept


def _as_peft(component: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by PEFT's names, of text encoders without `OLD_LEVEL`."""
    if component == "unet":
        return convert_unet_state_dict_to_peft(tensors)
    renamed = convert_state_dict_to_peft(convert_state_dict_to_diffusers(tensors))
    return {name.removeprefix(OLD_LEVEL): tensor for name, tensor in renamed.items()}


def _pairs(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, LowRank]:
    """Return the matrices of each module, convolutions' flattened; `config` is PEFT's, if the file has one."""
    matrices: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        module, _, which = name.removesuffix(".weight").rpartition(".")
        matrices[module][which] = tensor
    pairs = {}
    for module, pair in matrices.items():
        if pair.keys() != {"lora_A", "lora_B"}:
            raise UnusableAdapter(f"{module} has {', '.join(sorted(pair))}, and must have lora_A and lora_B.")
        down, up = pair["lora_A"].flatten(1), pair["lora_B"].flatten(1)
        pairs[module] = LowRank(down, up * _scale(config, module, len(down)) if config else up)
    return pairs


def _configs(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return PEFT's config of each component, which diffusers writes into a file as JSON: `unet.lora_alpha`."""
    configs: dict[str, dict[str, Any]] = defaultdict(dict)
    try:
        entries = json.loads(metadata.get(PEFT_METADATA, "{}"))
        for name, value in entries.items():
            component, _, entry = name.partition(".")
            configs[component][entry] = value
    except (ValueError, AttributeError, RecursionError) as error:
        raise UnusableAdapter(f"has a {PEFT_METADATA} that is no JSON object.") from error
    return configs


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return what PEFT multiplies up · down of a module with. Source: peft `LoraLayer.update_layer`."""
    patterns = config.get("alpha_pattern") or {}
    own = next((value for name, value in patterns.items() if f".{module}".endswith(f".{name}")), None)
    alpha = config.get("lora_alpha", rank) if own is None else own
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UnusableAdapter(f"has a {PEFT_METADATA} whose alpha of {module} is no number.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
