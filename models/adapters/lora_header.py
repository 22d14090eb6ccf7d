"""What a LoRA file says of itself: its formats, its rank and what it is for. The header alone is read, no torch.

Formats: kohya's (`lora_unet_….lora_down.weight` with `alpha`), diffusers' old and new, and PEFT's. What has other sums
than up · down is refused here, by its keys as they are in the file: diffusers drops some of them with a mere warning.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from models.checkpoint.configs import one_line
from models.checkpoint.guard import TensorInfo, read_header
from models.errors import UnusableAdapter, UnusableCheckpoint

MAX_TENSORS = 2**14  # of a LoRA; one of all of XL's layers has 7,500
MAX_NAME = 256  # characters of a tensor's; messages quote them
MAX_RANK = 1024
MAX_TRIGGER_WORDS = 20
LENGTH_BYTES = 8  # before the header, which they count
TYPES = ("F16", "BF16", "F32")
OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "a Tucker decomposition (LoCon with use_tucker or use_cp)",
    "oft_": "OFT",
    "boft_": "BOFT",
    ".diff.": "a full difference",
    "glora": "GLoRA",
    "ia3_": "(IA)3",
    "lora_controlnet": "a Control-LoRA",
}
DOWN = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora.down.weight",
    ".lora_linear_layer.down.weight",
    "_lora.down.weight",
)
UP = (".lora_up.weight", ".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight", "_lora.up.weight")
PREFIXES = {  # component -> how the names of its tensors begin
    "unet": ("unet.", "lora_unet_"),
    "text_encoder": ("text_encoder.", "lora_te_", "lora_te1_"),
    "text_encoder_2": ("text_encoder_2.", "lora_te2_"),
}
ATTENDED = ("attn2.to_k", "attn2_to_k")  # of a UNet: takes what the text encoders give


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraHeader:
    """What the header of a LoRA file says."""

    rank: int  # the greatest of its modules
    text_width: int | None  # of the text that its UNet attends to: 768 for SD 1.x, 1024 for 2.x, 2048 for XL
    components: tuple[str, ...]  # that it changes
    title: str
    base: str  # the model that it was trained on, as it says
    trigger_words: tuple[str, ...]
    tensors_start: int  # the first byte after the header


def read_lora_header(path: Path) -> LoraHeader:
    """Return what a file says of itself.

    Raises:
        UnusableAdapter: it is no whole safetensors file, or of another kind; says which.
    """
    entries, metadata, tensors_start = _contents(path)
    if kind := next((kind for mark, kind in OTHER_KINDS.items() if any(mark in f"{name}." for name in entries)), None):
        raise UnusableAdapter(f"is {kind}, which is not supported. Convert it to a plain LoRA.")
    ranks = _ranks(entries)
    for name, entry in entries.items():
        if name.endswith(".alpha") and math.prod(entry.shape) != 1:
            raise UnusableAdapter(f"{one_line(name)} has the shape {entry.shape}, and must be one number.")
        if entry.dtype not in TYPES and not name.endswith(".alpha"):
            raise UnusableAdapter(f"{one_line(name)} is {entry.dtype}, and must be one of {', '.join(TYPES)}.")
    return LoraHeader(
        rank=max(ranks.values()),
        text_width=next((entries[name].shape[1] for name in ranks if any(part in name for part in ATTENDED)), None),
        components=tuple(name for name, prefixes in PREFIXES.items() if any(key.startswith(prefixes) for key in ranks)),
        title=one_line(metadata.get("modelspec.title") or metadata.get("ss_output_name") or ""),
        base=one_line(metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or ""),
        trigger_words=_trigger_words(metadata),
        tensors_start=tensors_start,
    )


def _contents(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    """Return tensors and metadata of a file that is whole, and where its header ends."""
    try:
        tensors = read_header(path)
        with path.open("rb") as file, safe_open(path, framework="numpy") as weights:
            return tensors, weights.metadata() or {}, LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")
    except UnusableCheckpoint as error:
        raise UnusableAdapter(f"is {one_line(error.message.removeprefix(f'{path}: '))}") from error
    except (SafetensorError, OSError) as error:
        raise UnusableAdapter("disappeared while it was read.") from error


def _ranks(entries: Mapping[str, TensorInfo]) -> dict[str, int]:
    """Return the rank of each matrix `down`. Each has a matrix `up` of the same rank."""
    if len(entries) > MAX_TENSORS:
        raise UnusableAdapter(f"has {len(entries)} tensors, the most is {MAX_TENSORS}.")
    if odd := next((name for name in entries if len(name) > MAX_NAME or not name.isprintable()), None):
        raise UnusableAdapter(
            f"names a tensor {one_line(odd)}…; names are printable, and of up to {MAX_NAME} characters."
        )
    ranks = {name: entry.shape[0] for name, entry in entries.items() if name.endswith(DOWN) and len(entry.shape) >= 2}
    for name, rank in ranks.items():
        up = next(
            (
                entries.get(name.removesuffix(down) + up)
                for down, up in zip(DOWN, UP, strict=True)
                if name.endswith(down)
            ),
            None,
        )
        if up is None or len(up.shape) < 2 or up.shape[1] != rank or not 1 <= rank <= MAX_RANK:
            raise UnusableAdapter(f"{name} of rank {rank} has no up matrix that fits; a rank is from 1 to {MAX_RANK}.")
    known = tuple(prefix for prefixes in PREFIXES.values() for prefix in prefixes)
    others = [name for name in entries if not (name.startswith(known) and name.endswith((*DOWN, *UP, ".alpha")))]
    if not ranks or others:
        what = f"{one_line(others[0])} is no part of one" if others else "it has no lora_down, lora_A or lora.down"
        raise UnusableAdapter(f"is not a LoRA of Stable Diffusion: {what}.")
    return ranks


def _trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words that the file says to use, else the commonest tags of its training.

    Source: kohya-ss/sd-scripts `docs/train_network_README.md`, and the modelspec's `trigger_phrase`.
    """
    if phrase := metadata.get("modelspec.trigger_phrase"):
        return tuple(one_line(word) for word in phrase.split(",") if word.strip())[:MAX_TRIGGER_WORDS]
    counts: dict[str, int] = {}
    for tag, count in _tags(metadata.get("ss_tag_frequency", "")):
        counts[tag] = counts.get(tag, 0) + count
    return tuple(sorted(counts, key=lambda tag: -counts[tag]))[:MAX_TRIGGER_WORDS]


def _tags(text: str) -> Iterator[tuple[str, int]]:
    """Yield tags and how often they were used, of each folder of a training."""
    try:
        folders: Any = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int | float) and math.isfinite(count) and tag.strip():
                yield one_line(tag), int(count)
