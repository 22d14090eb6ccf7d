"""The files of a checkpoint that are read: which, whether they are safe to open, and their SHA-256. No torch."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.checkpoint.assembly import link_targets
from models.checkpoint.cache import recorded_sum
from models.checkpoint.configs import LARGEST_JSON, LARGEST_WORDS, check_file, read_json
from models.checkpoint.guard import (
    MAX_TENSORS,
    check_entries,
    check_model,
    check_neighbours,
    check_scheduler,
    check_tokenizer_file,
    measure,
    read_header,
    size_of,
)
from models.checkpoint.original_layout import ORIGINAL, need_part
from models.checkpoint.sizes import Size
from models.errors import UnusableCheckpoint
from models.families.base import Component
from models.families.registry import FAMILIES

MANIFEST = "SHA256SUMS"
DESCRIPTION = "darkroom.json"  # what the model prefers; it does not make the pictures, so the digest leaves it out
UNREAD = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".h5", ".msgpack", ".py")  # formats that can run code, and code
PREFERRED_VARIANT = "fp16"
WORDS = ("vocab.json", "merges.txt")
TOKENIZER_FILES = (*WORDS, "tokenizer.json", "special_tokens_map.json", "added_tokens.json")


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
        for place in (folder, *(folder / name for name in FAMILIES[family].components))
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
            file = path.resolve() if path.name == ORIGINAL else path
            raise UnusableCheckpoint(f"{file}: not the file that the model's digest is of.")


def own_manifest(folder: Path, allowed_roots: Sequence[Path] = ()) -> Path | None:
    """Return the list of sums in the folder, if there is one. Raises UnusableCheckpoint where it leads out."""
    path = folder / MANIFEST
    return _inside(_roots(folder, allowed_roots), path) if path.exists() or path.is_symlink() else None


def check_manifest(manifest: Path, folder: Path, sums: Mapping[str, str]) -> None:
    """Check the files of a checkpoint against a list of SHA-256 sums, as `sha256sum` writes it.

    Of a single file, that file and a VAE's are checked, by their own names; the configs are ours.

    Raises:
        UnusableCheckpoint: the manifest cannot be read; or names the file that it does not have or says otherwise of.
    """
    try:
        check_file(manifest, LARGEST_JSON)
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableCheckpoint(f"{manifest}: cannot be read: {error}") from error
    known = dict[str, str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        matched = re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(.+)", line)
        if matched is None:
            raise UnusableCheckpoint(f"{manifest}: line {number} is none of sha256sum.")  # it may be of another file
        known[matched[2]] = matched[1]
    for name, found in _listed(folder, sums):
        if name not in known:
            raise UnusableCheckpoint(f"{name}: not in {manifest}.")
        if found != known[name]:
            raise UnusableCheckpoint(f"{name}: its SHA-256 is {found}, and {manifest} says {known[name]}.")


def _listed(folder: Path, sums: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the names that a manifest has for files, and their sums."""
    is_assembled, vae_is_folder = bool(link_targets(folder)), (folder / "vae").is_symlink()
    for name, found in sums.items():
        path = folder / name
        if not is_assembled:
            yield name, found
        elif path.name == ORIGINAL:
            yield path.readlink().name, found
        elif vae_is_folder and name.startswith("vae/"):
            yield path.name, found


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
    roots = _roots(folder, allowed_roots)
    yield _checked(roots, folder, "model_index.json", check_entries)
    yield _checked(roots, folder, "scheduler/scheduler_config.json", check_scheduler)
    if (folder / DESCRIPTION).exists():
        yield _inside(roots, folder / DESCRIPTION, LARGEST_JSON)
    for name, component in FAMILIES[family].components.items():
        if component.weights:
            yield from _model_files(roots, folder / name, component)
        else:
            yield from _tokenizer_files(roots, folder / name)


def _checked(
    roots: Sequence[Path],
    folder: Path,
    name: str,
    check: Callable[[Path, dict[str, Any]], None],
    largest: int = LARGEST_JSON,
) -> Path:
    """Return a JSON file that is inside, whose content passes `check`."""
    path = _inside(roots, folder / name)
    check(path, read_json(folder, name, largest))
    return path


def _tokenizer_files(roots: Sequence[Path], part: Path) -> Iterator[Path]:
    """Yield a tokenizer's config and words."""
    check_neighbours(part, "tokenizer")
    yield _checked(roots, part, "tokenizer_config.json", check_tokenizer_file)
    present = [file for file in TOKENIZER_FILES if (part / file).exists()]
    if "tokenizer.json" not in present and not {"vocab.json", "merges.txt"} <= set(present):
        raise UnusableCheckpoint(f"{part}: has neither tokenizer.json nor vocab.json with merges.txt.")
    for file in present:
        if file in WORDS:
            yield _inside(roots, part / file, LARGEST_WORDS)
        else:
            yield _checked(roots, part, file, check_tokenizer_file, LARGEST_WORDS)


class Weights(NamedTuple):
    """The weights of a component that are read: one file, or an index and its shards."""

    variant: str | None  # what the library is asked for: "fp16" reads model.fp16.safetensors
    index: Path | None
    files: tuple[Path, ...]
    is_original: bool = False  # a single file, of which the component is a part


def find_weights(part: Path, component: Component) -> Weights:
    """Return the weights that the component's library reads; a variant's where there are no others.

    Where a whole file lies beside shards, diffusers reads the shards and transformers the whole file. A single file
    in the original layout has a name of ours.

    Raises:
        UnusableCheckpoint: there are none, or their index is broken; says what there is and how to get safetensors.
    """
    for variant in (None, *_variants(part, component.weights)):
        suffix = f".{variant}" if variant else ""
        whole = part / f"{component.weights}{suffix}.safetensors"
        index = part / f"{component.weights}.safetensors.index{suffix}.json"
        if index.exists() and (component.package == "diffusers" or not whole.exists()):
            return Weights(variant, index, _shards(index))
        if whole.exists():
            return Weights(variant, None, (whole,))
    if (original := part / ORIGINAL).exists():
        return Weights(None, None, (original,), is_original=True)
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
    config = _inside(roots, part / "config.json")
    content = read_json(part, "config.json")
    weights = find_weights(part, component)
    check_neighbours(part, component.package, weights.variant)
    files = [_inside(roots, path) for path in weights.files]
    assert component.least_size is not None, f"{part.name}: a component with weights declares its least size"
    check_model(config, content, component.package, component.least_size, _held(part, weights))
    yield from (config, *files)
    if weights.index is not None:
        yield _inside(roots, weights.index)


def _held(part: Path, weights: Weights) -> Size:
    """Return what the weights of a part hold. Raises UnusableCheckpoint: too many tensors."""
    if weights.is_original:
        [file] = (path.resolve() for path in weights.files)
        held = size_of(need_part(file, read_header(file), part.name).tensors)
    else:
        file, held = weights.files[0], Size(*map(sum, zip(*map(measure, weights.files), strict=True)))
    if held.tensors > MAX_TENSORS:
        raise UnusableCheckpoint(f"{file}: {held.tensors} tensors in all, the most is {MAX_TENSORS}.")
    return held


def _hub_blobs(folder: Path) -> tuple[Path, ...]:
    """Return where the files of a snapshot in the hub's cache are: its repository's blobs, and those that all share.

    Source: huggingface_hub `utils/_shared_blobs.py`, and `file_download.py`.
    """
    repository = folder.parents[1] if folder.parent.name == "snapshots" else None
    if repository is None or not repository.name.startswith("models--"):
        return ()
    return repository / "blobs", repository.parent / "blobs"


def _roots(folder: Path, allowed_roots: Sequence[Path]) -> list[Path]:
    """Return the folders that links may lead to."""
    targets = link_targets(folder)  # what the operator has named beside the folder
    blobs = (root for named in (folder, *targets, *(each.parent for each in targets)) for root in _hub_blobs(named))
    return [root.resolve() for root in (folder, *targets, *blobs, *allowed_roots)]


def _inside(roots: Sequence[Path], path: Path, largest: int | None = None) -> Path:
    """Return `path`, a file of `largest` bytes or less, unless a link leads out of the checkpoint."""
    try:
        target = path.resolve(strict=True)
        check_file(target, largest)
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


def _sum(path: Path) -> str:
    if path.name == ORIGINAL:
        return recorded_sum(path)  # several components have it
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
