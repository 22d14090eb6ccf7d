"""The files of a checkpoint that are read: which, whether they are safe to open, and their SHA-256. No torch."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from models.errors import UnusableCheckpoint
from models.families.known import COMPONENTS, Component

MANIFEST = "SHA256SUMS"
DESCRIPTION = "darkroom.json"  # what the model prefers; it does not make the pictures, so the digest leaves it out
LARGEST_JSON = 2**20  # bytes, of what is parsed here
GREATEST_NUMBER = 2**20  # in a config: widths, vocabularies and lengths are far below
CODE_ENTRIES = ("auto_map", "attn_implementation", "_attn_implementation", "custom_pipeline")
UNREAD = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".h5", ".msgpack", ".py")  # formats that can run code, and code
OTHER_FILES = ("transformers_weights", "vocab_file", "merges_file", "tokenizer_file", "fast_tokenizer_files")
PREFERRED_VARIANT = "fp16"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
LFS_POINTER = b"version https://git-lfs"


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


def file_sums(folder: Path, family: str, allowed_roots: Sequence[Path] = ()) -> dict[str, str]:
    """Return the SHA-256 of every file that the stages read, by its name in the folder.

    Raises:
        UnusableCheckpoint: names the file that is missing, broken, outside of the folder, or that asks for what is
            not done here, such as running code of its own.
    """
    return {path.relative_to(folder).as_posix(): _sum(path) for path in checked_files(folder, family, allowed_roots)}


def ignored_files(folder: Path, family: str, read: Mapping[str, str]) -> list[str]:
    """Return the names of weights and code of a checkpoint that are not among those `read`."""
    suffixes = (*UNREAD, ".safetensors")
    found = (
        path.relative_to(folder).as_posix()
        for place in (folder, *(folder / name for name in COMPONENTS[family]))
        for path in place.glob("*")
        if path.suffix in suffixes and not path.name.startswith(".")
    )
    return sorted(name for name in found if name not in read)


def check_parts(
    folder: Path, family: str, sums: Mapping[str, str], parts: Sequence[str], allowed_roots: Sequence[Path] = ()
) -> None:
    """Check that some parts of a checkpoint still are what `sums` says: this machine may have another copy.

    Raises:
        UnusableCheckpoint: names the file that differs.
    """
    for path in checked_files(folder, family, allowed_roots):
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


def checked_files(folder: Path, family: str, allowed_roots: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield the files that are read, each checked for what it must not hold. Of weights only the header is read.

    Links may lead to `allowed_roots`, and in the hub's cache to its blobs.

    Raises:
        UnusableCheckpoint: as `file_sums` does.
    """
    roots = [root.resolve() for root in (folder, *_hub_blobs(folder), *allowed_roots)]
    yield _without_code(_inside(roots, folder / "model_index.json"))
    yield _inside(roots, folder / "scheduler" / "scheduler_config.json")
    if (folder / DESCRIPTION).exists():
        yield _inside(roots, folder / DESCRIPTION)
    for name, component in COMPONENTS[family].items():
        if component.weights:
            yield from _model_files(roots, folder / name, component)
        else:
            yield _without_code(_inside(roots, folder / name / "tokenizer_config.json"))
            yield from _tokenizer_files(roots, folder / name)


def _tokenizer_files(roots: Sequence[Path], part: Path) -> Iterator[Path]:
    """Yield a tokenizer's words."""
    present = [file for file in TOKENIZER_FILES if (part / file).exists()]
    if "tokenizer.json" not in present and not {"vocab.json", "merges.txt"} <= set(present):
        raise UnusableCheckpoint(f"{part}: has neither tokenizer.json nor vocab.json with merges.txt.")
    yield from (_inside(roots, part / file) for file in present)


class Weights(NamedTuple):
    """The weights of a component that are read: one file, or an index and its shards."""

    variant: str | None  # what the library is asked for: "fp16" reads model.fp16.safetensors
    index: Path | None
    files: tuple[Path, ...]


def find_weights(part: Path, component: Component) -> Weights:
    """Return the weights that the component's library reads; a variant's where there are no others.

    Where a whole file lies beside shards, diffusers reads the shards and transformers the whole file.

    Raises:
        UnusableCheckpoint: there are none, or their index is broken; says what there is and how to get safetensors.
    """
    for variant in (None, *_variants(part, component.weights)):
        suffix = f".{variant}" if variant else ""
        whole = part / f"{component.weights}{suffix}.safetensors"
        index = part / f"{component.weights}.safetensors.index{suffix}.json"
        if index.exists() and (component.library == "diffusers" or not whole.exists()):
            return Weights(variant, index, _shards(index))
        if whole.exists():
            return Weights(variant, None, (whole,))
    raise UnusableCheckpoint(f"{part}: {_why_no_weights(part, component.weights)}")


def _variants(part: Path, weights: str) -> list[str]:
    """Return the variants that a part has weights of, the preferred one first."""
    name = re.compile(rf"{weights}\.(?:safetensors\.index\.)?([A-Za-z0-9_]+)\.(?:safetensors|json)")
    found = {match[1] for path in part.glob("*") if (match := name.fullmatch(path.name))}
    return sorted(found, key=lambda variant: (variant != PREFERRED_VARIANT, variant))


def _why_no_weights(part: Path, weights: str) -> str:
    present = sorted(path.name for path in part.glob("*") if not path.name.startswith("."))
    if any(name.endswith(UNREAD) for name in present):
        return (
            f"no {weights}.safetensors, only weights in a format that can run code, which is not read. Convert the "
            "checkpoint where you trust it: DiffusionPipeline.from_pretrained(folder).save_pretrained(new_folder)."
        )
    others = [name for name in present if name.endswith(".safetensors")]
    return f"no {weights}.safetensors; there is {', '.join(others)[:200] or 'no .safetensors file'}."


def _shards(index: Path) -> tuple[Path, ...]:
    names = read_json(index.parent, index.name).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UnusableCheckpoint(f"{index}: has no weight_map.")
    present = {path.name for path in index.parent.glob("*.safetensors")}
    for name in names.values():
        if name not in present:
            raise UnusableCheckpoint(f"{index}: {str(name)[:100]!r} is no safetensors file beside it.")
    return tuple(index.parent / name for name in sorted(set(names.values())))


def _model_files(roots: Sequence[Path], part: Path, component: Component) -> Iterator[Path]:
    """Yield config and weights of a part."""
    config = _without_code(_inside(roots, part / "config.json"))
    weights = find_weights(part, component)
    files = [_inside(roots, path) for path in weights.files]
    _refuse_absurd(config, read_json(part, "config.json"), sum(map(_tensors, files)))
    yield from (config, *files)
    if weights.index is not None:
        yield _inside(roots, weights.index)


def _hub_blobs(folder: Path) -> tuple[Path, ...]:
    """Return where the files of a snapshot in the hub's cache are: its repository's blobs, and those that all share.

    Source: huggingface_hub `utils/_shared_blobs.py`, and `file_download.py`.
    """
    repository = folder.parents[1] if folder.parent.name == "snapshots" else None
    if repository is None or not repository.name.startswith("models--"):
        return ()
    return repository / "blobs", repository.parent / "blobs"


def _inside(roots: Sequence[Path], path: Path) -> Path:
    """Return `path`, unless a link leads out of the checkpoint."""
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError as error:
        raise UnusableCheckpoint(f"{path}: missing.") from error
    except (OSError, RuntimeError) as error:  # links that lead to each other
        raise UnusableCheckpoint(f"{path}: cannot be read: {error}") from error
    if not any(target.is_relative_to(root) for root in roots):
        raise UnusableCheckpoint(
            f"{path}: a link out of the checkpoint, to {target}. Name the folder that it leads to under "
            "`allowed_roots`, or copy the files: cp -rL."
        )
    return path


def _without_code(path: Path) -> Path:
    config = read_json(path.parent, path.name)
    if config.get("quantization_config") is not None:
        raise UnusableCheckpoint(
            f"{path}: quantization_config: quantised weights are not read; take the original ones."
        )
    for entry in OTHER_FILES:
        if config.get(entry) is not None:
            raise UnusableCheckpoint(f"{path}: {entry} names files of its own choice; give them their usual names.")
    for entry in CODE_ENTRIES:
        if config.get(entry) is not None:
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
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UnusableCheckpoint(f"{path}: a Git LFS pointer, not the weights: run git lfs pull.") from error
        raise UnusableCheckpoint(f"{path}: not a safetensors file: {error}") from error


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
