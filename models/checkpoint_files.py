"""The files of a checkpoint that are read: which, whether they are safe to open, and their SHA-256. No torch."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from models.errors import UnusableCheckpoint
from models.families.known import PARTS, TOKENIZERS

logger = logging.getLogger(__name__)

MANIFEST = "SHA256SUMS"
DESCRIPTION = "darkroom.json"  # what the model prefers; it does not make the pictures, so the digest leaves it out
LARGEST_JSON = 2**20  # bytes, of what is parsed here
GREATEST_NUMBER = 2**20  # in a config: widths, vocabularies and lengths are far below
CODE_ENTRIES = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config", "custom_pipeline")
UNREAD = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".h5", ".msgpack", ".py")  # formats that can run code, and code


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON object of the checkpoint.

    Raises:
        UnusableCheckpoint: missing, too large, or not a JSON object; names the file.
    """
    path = folder / name
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise UnusableCheckpoint(f"{path}: more than {LARGEST_JSON} bytes; no config is so large.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnusableCheckpoint(f"{path}: missing.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableCheckpoint(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnusableCheckpoint(f"{path}: not a JSON object.")
    return content


def file_sums(folder: Path, family: str) -> dict[str, str]:
    """Return the SHA-256 of every file that the stages read, by its name in the folder.

    Raises:
        UnusableCheckpoint: names the file that is missing, broken, outside of the folder, or that asks for what is
            not done here, such as running code of its own.
    """
    for path in sorted(path for path in folder.rglob("*") if path.suffix in UNREAD):
        logger.warning("%s: ignored; of weights, only safetensors are read, and no code is run", path)
    return {path.relative_to(folder).as_posix(): _sum(path) for path in checked_files(folder, family)}


def check_parts(folder: Path, family: str, sums: Mapping[str, str], parts: Sequence[str]) -> None:
    """Check that some parts of a checkpoint still are what `sums` says: this machine may have another copy.

    Raises:
        UnusableCheckpoint: names the file that differs.
    """
    for path in checked_files(folder, family):
        name = path.relative_to(folder).as_posix()
        if name.partition("/")[0] in parts and _sum(path) != sums.get(name):
            raise UnusableCheckpoint(f"{path}: not the file that the model's digest is of.")


def check_manifest(manifest: Path, sums: Mapping[str, str]) -> None:
    """Check the files of a checkpoint against a list of SHA-256 sums, as `sha256sum` writes it.

    Raises:
        UnusableCheckpoint: the manifest cannot be read; or names the file that it does not have or says otherwise of.
    """
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableCheckpoint(f"{manifest}: cannot be read: {error}") from error
    known = dict[str, str]()
    for line in filter(str.strip, lines):
        matched = re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(.+)", line)
        if matched is None:
            raise UnusableCheckpoint(f"{manifest}: not a line of sha256sum: {line[:100]!r}.")
        known[matched[2]] = matched[1]
    for name, found in sums.items():
        if name not in known:
            raise UnusableCheckpoint(f"{name}: not in {manifest}.")
        if found != known[name]:
            raise UnusableCheckpoint(f"{name}: its SHA-256 is {found}, and {manifest} says {known[name]}.")


def digest(sums: Mapping[str, str]) -> str:
    """Return the SHA-256 over names and contents of all that makes the pictures."""
    total = hashlib.sha256()
    for name in sorted(sums.keys() - {DESCRIPTION}):
        total.update(f"{sums[name]}  {name}\n".encode())
    return total.hexdigest()


def checked_files(folder: Path, family: str) -> Iterator[Path]:
    """Yield the files that are read, each checked for what it must not hold. Of weights only the header is read.

    Raises:
        UnusableCheckpoint: as `file_sums` does.
    """
    yield _without_code(_inside(folder, folder / "model_index.json"))
    yield _inside(folder, folder / "scheduler" / "scheduler_config.json")
    if (folder / DESCRIPTION).exists():
        yield _inside(folder, folder / DESCRIPTION)
    for tokenizer in TOKENIZERS[family]:
        yield _without_code(_inside(folder, folder / tokenizer / "tokenizer_config.json"))
        for path in sorted(path for path in (folder / tokenizer).iterdir() if path.suffix in (".json", ".txt")):
            if path.name != "tokenizer_config.json":
                yield _inside(folder, path)
    for part in PARTS[family]:
        yield from _part_files(folder, folder / part)


def _part_files(folder: Path, part: Path) -> Iterator[Path]:
    """Yield config and weights of a part."""
    config = _without_code(_inside(folder, part / "config.json"))
    weights = [_inside(folder, path) for path in sorted(part.glob("*.safetensors"))]
    if not weights:
        raise UnusableCheckpoint(f"{part}: no .safetensors file; other weight formats are not read.")
    _refuse_absurd(config, read_json(part, "config.json"), sum(map(_tensors, weights)))
    indices = [_inside(folder, path) for path in sorted(part.glob("*.safetensors.index.json"))]
    for index in indices:
        shards = read_json(part, index.name).get("weight_map")
        if not isinstance(shards, dict):
            raise UnusableCheckpoint(f"{index}: has no weight_map.")
        for shard in shards.values():
            if shard not in [path.name for path in weights]:
                raise UnusableCheckpoint(f"{index}: {str(shard)[:100]!r} is no safetensors file beside it.")
    yield from (config, *weights, *indices)


def _inside(folder: Path, path: Path) -> Path:
    """Return `path`, unless a link leads out of the checkpoint. In the hub's cache, files are links to its blobs."""
    home = folder.parents[1] if folder.parent.name == "snapshots" else folder
    if not path.exists():
        raise UnusableCheckpoint(f"{path}: missing.")
    if not path.resolve().is_relative_to(home.resolve()):
        raise UnusableCheckpoint(f"{path}: a link out of the checkpoint, to {path.resolve()}.")
    return path


def _without_code(path: Path) -> Path:
    config = read_json(path.parent, path.name)
    for entry in CODE_ENTRIES:
        if entry in config:
            raise UnusableCheckpoint(f"{path}: {entry} asks for code that is not the library's own; none is run here.")
    return path


def _refuse_absurd(path: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse what would fill the memory before the first weight is read: each layer has a tensor at least."""
    for entry, value in config.items():
        most = tensors if "layers" in entry else GREATEST_NUMBER
        values = list(_values(value))
        if len(values) > tensors or any(isinstance(one, int | float) and abs(one) > most for one in values):
            raise UnusableCheckpoint(f"{path}: {entry} = {str(value)[:100]} does not fit its {tensors} tensors.")


def _values(value: Any) -> Iterator[Any]:
    """Yield what an entry holds, lists in lists as one."""
    if isinstance(value, list):
        for item in value:
            yield from _values(item)
    else:
        yield value


def _tensors(path: Path) -> int:
    """Return how many tensors a file has, by its header alone, in which sizes and places must agree with the file."""
    try:
        with safe_open(path, framework="numpy") as file:
            return len(file.keys())
    except (SafetensorError, OSError) as error:
        raise UnusableCheckpoint(f"{path}: not a safetensors file: {error}") from error


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
