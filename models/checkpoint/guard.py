"""What the files of a checkpoint may say: checked by arithmetic, before a library acts on it. No torch.

A config must not ask for code, for files of its own choice, or for a model larger than its weights: libraries build the
model before they read the first weight. All functions raise `UnusableCheckpoint`, which names the file and the entry.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from models.checkpoint.configs import check_count, entries_of, entry_name, leaves, shortened
from models.checkpoint.sizes import Size, SizeEntries
from models.errors import UnusableCheckpoint

MAX_NUMBER = 2**20  # real widths and vocabularies are far below
MAX_SCHEDULER_NUMBER = 10_000  # real ones have 1000 training steps, and sigmas up to 1348
MAX_TOKENS = 1024  # of a text; real text encoders read 77 or 248
MAX_ADDED_TOKENS = 4096
MAX_RULES_BYTES = 2**13  # of a tokenizer.json without its words; 1 kB in real ones, and regexes take memory to compile
MAX_TENSORS = 4096  # of a component; XL's UNet has 1680
MAX_HEADER_BYTES = 2**22  # of a safetensors file; that of XL's UNet has 0.2 MB

MAX_TOKEN = 256  # characters of an added token
WEIGHT_TYPES = ("F16", "BF16", "F32", "F64")  # others take less in the file than once they are loaded

ANY = math.inf
MODEL_BOUNDS = {
    "max_position_embeddings": MAX_TOKENS,
    "num_labels": 1000,  # transformers writes a label for each
    "downsample_padding": 8,  # cells around an image; 1 in real UNets
    "optimization_step": ANY,  # of a UNet's training, as update_after_step: libraries ignore them
    "update_after_step": ANY,
}
SCHEDULER_BOUNDS = {"lambda_min_clipped": ANY}  # -Infinity is diffusers' default
RULES_BOUNDS = {"pad_id": MAX_NUMBER, "pad_type_id": MAX_NUMBER}  # the others are lengths
LABELS = ("id2label", "label2id", "pruned_heads", "task_specific_params")  # objects in configs of transformers 4
TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")

CODE = "asks for code that is not the library's own; none is run here."
FILES = "names files of its own choice; give them their usual names."
REFUSED_ENTRIES = {
    "quantization_config": "asks for quantised weights, which are not read; take the original ones.",
    "_use_default_values": "has diffusers take other values than the config's; remove it.",
    "precompiled_charsmap": "is of a tokenizer that is not CLIP's.",
    **dict.fromkeys(("auto_map", "custom_pipeline", "fusion_config"), CODE),
    **dict.fromkeys(("attn_implementation", "_attn_implementation"), CODE),
    **dict.fromkeys(("experts_implementation", "_experts_implementation"), CODE),
    **dict.fromkeys(("configuration_files", "transformers_weights", "gguf_file"), FILES),
    **dict.fromkeys(("vocab_file", "merges_file", "tokenizer_file", "fast_tokenizer_files"), FILES),
    **dict.fromkeys(("vocab", "merges", "tokenizer_object", "init_inputs"), FILES),  # a tokenizer takes paths for these
}
# What libraries look for beside the files that they are asked for. `{variant}` is that of the weights.
FOUND_BY_THEMSELVES = {
    "tokenizer": r"chat_template\.jinja|additional_chat_templates|.*(tekken\.json|(tokenizer|tiktoken)\.model).*",
    "transformers": r"adapter_config\.json|shard-\d{5}-model-.*",
    "diffusers": r"diffusion_pytorch_model\.(safetensors\.{variant}|{variant}\.safetensors)\.index\.json",
}
COUNTED_THRICE = ("in_proj_weight", "in_proj_bias")  # open_clip's query, key and value
LFS_POINTER = b"version https://git-lfs"


# -- any JSON


def check_entries(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse entries that ask for code or files, at any depth of a JSON object."""
    for name, key, value in entries_of(path, content):
        if key in REFUSED_ENTRIES and value is not None and value != []:
            raise UnusableCheckpoint(f"{path}: {name} {REFUSED_ENTRIES[key]}")


def _check_numbers(path: Path, content: Mapping[str, Any], greatest: int, others: Mapping[str, int | float]) -> None:
    """Refuse numbers beyond `greatest`; `others` are the bounds of entries that have their own."""
    for name, key, value in entries_of(path, content):
        bound = others.get(key, greatest)
        if isinstance(value, int | float) and abs(value) > bound:
            raise UnusableCheckpoint(f"{path}: {name} = {shortened(value)} must be from -{bound} to {bound}.")


def _check_objects(path: Path, config: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Refuse objects in a config of transformers, which takes some, under any name, in place of the config itself."""
    for entry, value in config.items():
        if entry not in allowed and any(isinstance(inner, dict) for _, _, inner in entries_of(path, [value])):
            raise UnusableCheckpoint(
                f"{path}: {entry_name('', entry)} holds an object, and here a config has none; remove the entry, or "
                "save the component alone: its class's save_pretrained(folder)."
            )


def check_scheduler(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a scheduler whose numbers and lists are beyond any real one's: they size tensors and loops."""
    check_entries(path, config)
    _check_numbers(path, config, MAX_SCHEDULER_NUMBER, SCHEDULER_BOUNDS)
    for entry, value in config.items():
        check_count(path, entry_name("", entry), len(leaves(path, value)), MAX_SCHEDULER_NUMBER)


# -- files that libraries find by themselves


def check_neighbours(part: Path, library: str, variant: str | None = None) -> None:
    """Refuse files that a library would read beside those that the digest is of, or in place of them."""
    pattern = re.compile(FOUND_BY_THEMSELVES[library].replace("{variant}", variant or "(?!)"), re.DOTALL)
    for path in sorted(part.glob("*")):
        if pattern.fullmatch(path.name):
            raise UnusableCheckpoint(
                f"{path}: would be read, although it is none of the files of the digest; remove it."
            )


# -- tokenizers


def check_tokenizer_file(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse what a JSON file of a tokenizer must not say."""
    match path.name:
        case "tokenizer_config.json":
            _check_tokenizer_config(path, content)
        case "special_tokens_map.json":
            _check_special_tokens(path, content)
        case "added_tokens.json":
            _check_tokens(path, "the file", content)
        case "tokenizer.json":
            _check_tokenizer(path, content)


def _check_tokenizer_config(path: Path, config: Mapping[str, Any]) -> None:
    check_entries(path, config)
    tokens = [entry for entry in config if entry.endswith("_token")]
    _check_objects(path, config, [*tokens, *TOKEN_LISTS, "added_tokens_decoder"])
    length = config.get("model_max_length")
    if isinstance(length, int) and not 3 <= length <= MAX_TOKENS:  # start, end and a word
        raise UnusableCheckpoint(
            f"{path}: model_max_length is {str(length)[:40]}, and must be from 3 to {MAX_TOKENS}: that of the text "
            "encoder, max_position_embeddings in its config.json."
        )
    _check_numbers(path, config, MAX_NUMBER, {})
    for entry in (*TOKEN_LISTS, "added_tokens_decoder"):
        _check_tokens(path, entry, config.get(entry))


def _check_special_tokens(path: Path, content: Mapping[str, Any]) -> None:
    """Its entries go over those of tokenizer_config.json, and over the paths of the files."""
    check_entries(path, content)
    for entry, value in content.items():
        if not entry.endswith("_token") and entry not in TOKEN_LISTS:
            raise UnusableCheckpoint(f"{path}: {entry_name('', entry)} is no special token; remove the entry.")
        _check_tokens(path, entry_name("", entry), value)


def _check_tokenizer(path: Path, content: Mapping[str, Any]) -> None:
    model = content.get("model")
    if (
        not isinstance(model, dict)
        or model.get("type") not in (None, "BPE")
        or not isinstance(model.get("vocab"), dict)
    ):
        raise UnusableCheckpoint(f"{path}: model must be of type BPE and have its vocab, as a CLIPTokenizer's is.")
    _check_tokens(path, "added_tokens", content.get("added_tokens"))
    rules = {entry: value for entry, value in content.items() if entry not in ("model", "added_tokens")}
    check_entries(path, rules)
    if (size := len(json.dumps(rules))) > MAX_RULES_BYTES:
        raise UnusableCheckpoint(
            f"{path}: {size} bytes besides model and added_tokens, the most is {MAX_RULES_BYTES}; take the tokenizer "
            "of the original checkpoint."
        )
    for entry in ("padding", "truncation"):
        _check_numbers(path, {entry: rules.get(entry)}, MAX_TOKENS, RULES_BOUNDS)


def _items(value: Any) -> Sequence[Any]:
    return list(value) if isinstance(value, list | dict) else ()


def _check_tokens(path: Path, name: str, value: Any) -> None:
    """Refuse added tokens that are too many, or one that is too long."""
    check_count(path, name, len(_items(value)), MAX_ADDED_TOKENS)
    words = [*leaves(path, value), *(value if isinstance(value, dict) else ())]
    if any(isinstance(word, str) and len(word) > MAX_TOKEN for word in words):
        raise UnusableCheckpoint(f"{path}: {name} has a token of more than {MAX_TOKEN} characters.")


# -- weights and the configs of their models


class TensorInfo(NamedTuple):
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file, by its header, whose sizes and places must agree with the file."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise UnusableCheckpoint(f"{path}: a Git LFS pointer, not the weights: run git lfs pull.")
        if (length := int.from_bytes(start[:8], "little")) > MAX_HEADER_BYTES:
            raise SafetensorError(f"a header of {length} bytes, the most is {MAX_HEADER_BYTES}")
        with safe_open(path, framework="numpy") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            return {name: TensorInfo(each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UnusableCheckpoint(f"{path}: not a safetensors file: {error}") from error


def measure(path: Path) -> Size:
    """Return what a safetensors file holds."""
    return size_of(read_header(path))


def size_of(tensors: Mapping[str, TensorInfo]) -> Size:
    """Return what tensors hold. One that a text encoder's original layout has for three counts as three."""
    counts = {name: math.prod(info.shape) for name, info in tensors.items() if info.dtype in WEIGHT_TYPES}
    held = (3 if name.endswith(COUNTED_THRICE) else 1 for name, count in counts.items() if count)
    return Size(sum(held), sum(counts.values()))


def check_model(
    path: Path,
    config: Mapping[str, Any],
    library: str,
    least_size: Callable[[SizeEntries], Size],
    held: Size,
) -> None:
    """Refuse the config of a model that would be larger than the weights in its files, or that holds other configs.

    `held` is what its files hold. Each tensor of a model must be in them, so nothing that can be served is refused.
    """
    check_entries(path, config)
    if library == "transformers":
        _check_objects(path, config, LABELS)
    for entry, value in config.items():
        values = leaves(path, value)
        layers = [number for number in values if isinstance(number, int | float)] if "layers" in entry else []
        if len(values) > held.tensors or any(number > held.tensors for number in layers):
            shown = f"{entry_name('', entry)} = {shortened(value)}"
            raise UnusableCheckpoint(f"{path}: {shown} does not fit its {held.tensors} tensors.")
    _check_numbers(path, config, MAX_NUMBER, MODEL_BOUNDS)
    sizing = SizeEntries(path, config)
    least = least_size(sizing)
    if least.tensors > held.tensors or least.elements > held.elements:
        raise UnusableCheckpoint(
            f"{path}: {sizing.greatest(least.tensors > held.tensors)} make {least.tensors} tensors of {least.elements} "
            f"elements or more; its weights have {held.tensors} of {held.elements}."
        )
