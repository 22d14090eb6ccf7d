"""Where a checkpoint is: a diffusers folder, a single file, or a hub id with its commit. No torch."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from models.checkpoint.assembly import AS_IT_IS, Overrides, assemble
from models.checkpoint.files import check_parts, checked_files, find_weights
from models.checkpoint.folder import INDEX, check_components, check_numbers, pipeline_class
from models.errors import UnusableCheckpoint
from models.families.base import Domain
from models.families.registry import FAMILIES, PIPELINES
from models.model_card import ModelCard

ROOT = Path(__file__).parents[2]
COMMIT = re.compile("[0-9a-f]{40}")
HUB_FILES = ["model_index.json", "darkroom.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
HUB_IGNORED = ["safety_checker/*", "feature_extractor/*"]
HUB_VARIANTS = ["*.fp16*", "*non_ema*"]  # fetched only where a component has no other weights


def resolve_checkpoint(checkpoint: str, overrides: Overrides = AS_IT_IS) -> Path:
    """Return the folder of a checkpoint, fetching `owner/name@commit` from the hub where it is no path.

    A single file gets a folder of its configs. A relative path is relative to the repository, as a replica's working
    directory is Ray's.

    Raises:
        UnusableCheckpoint: neither a path nor a hub id that can be fetched, or one without the commit that pins it; a
            single file that is not served, or overrides for something else.
    """
    if (local := _local_folder(checkpoint, overrides)) is not None:
        return local
    name, revision = _hub_id(checkpoint)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def fetch(*ignored: str) -> Path:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=[*HUB_IGNORED, *ignored]
            )
        )

    try:
        fetched = fetch(*HUB_VARIANTS)
        if not _has_weights(fetched):
            fetched = fetch()
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnusableCheckpoint(f"{checkpoint}: no such folder or file, and the hub gave: {reason}") from error
    return fetched


def checkpoint_name(checkpoint: str) -> str:
    """Return what a checkpoint is called: its folder, its file, or its repository where it is of the hub.

    Raises:
        UnusableCheckpoint: it cannot be a path.
    """
    named = _named_path(checkpoint)
    if named.is_file():
        return PurePath(checkpoint).stem
    if not named.is_dir():
        return PurePath(checkpoint.partition("@")[0]).name
    folder = (ROOT / Path(checkpoint).expanduser()).absolute()
    repository = folder.parent.parent.name
    is_snapshot = folder.parent.name == "snapshots" and repository.startswith("models--")
    return repository.rpartition("--")[2] if is_snapshot else folder.name


def check(checkpoint: str, allowed_roots: Sequence[Path] = (), overrides: Overrides = AS_IT_IS) -> Path | None:
    """Check what can be checked at once, however large it is: sums and the hub are left to `read_card`.

    Returns the folder, None for a hub id.

    Raises:
        UnusableCheckpoint: neither a path nor a hub id with its commit; or names the file that is at fault.
    """
    folder = _local_folder(checkpoint, overrides)
    if folder is None:
        _hub_id(checkpoint)
        return None
    check_components(folder)
    for _ in checked_files(folder, PIPELINES[pipeline_class(folder)].name, allowed_roots):
        pass  # it is checked before it is yielded
    check_numbers(folder)
    return folder


def locate_parts(
    checkpoint: str,
    card: ModelCard,
    stage: Domain,
    allowed_roots: Sequence[Path] = (),
    overrides: Overrides = AS_IT_IS,
) -> Path:
    """Return the folder of a checkpoint whose files for a stage are those that the card was read from.

    Raises:
        UnusableCheckpoint: names the file that another machine, or another moment, has differently.
    """
    folder = resolve_checkpoint(checkpoint, overrides)
    check_parts(folder, card.family, card.files, FAMILIES[card.family].parts(stage), allowed_roots)
    return folder


def _has_weights(folder: Path) -> bool:
    """Whether every component that is loaded has weights here."""
    family = PIPELINES[pipeline_class(folder)]
    try:
        for name, component in family.components.items():
            if component.weights:
                find_weights(folder / name, component)
    except UnusableCheckpoint:
        return False
    return True


def _local_folder(checkpoint: str, overrides: Overrides) -> Path | None:
    """Return the folder of a checkpoint on this machine, None if it is none there."""
    named = _named_path(checkpoint)
    if named.is_file() and named.name != INDEX:
        vae = None if overrides.vae is None else (ROOT / Path(overrides.vae).expanduser()).absolute()
        if vae is not None and not vae.exists():
            raise UnusableCheckpoint(f"vae.checkpoint: {overrides.vae}: no such file or folder.")
        return assemble((ROOT / Path(checkpoint).expanduser()).absolute(), vae, overrides.prediction_type)
    if overrides != AS_IT_IS:
        raise UnusableCheckpoint(
            f"{checkpoint}: vae.checkpoint and prediction_type are for single files; a diffusers folder has vae/ and "
            "scheduler/scheduler_config.json."
        )
    return _checked_snapshot(named) if named.is_dir() else None


def _checked_snapshot(folder: Path) -> Path:
    """Return a folder as it is.

    Raises:
        UnusableCheckpoint: it is a repository of the hub's cache, whose checkpoints are its snapshots.
    """
    home = folder.parent if folder.name == "snapshots" else folder
    snapshots = sorted(path.name for path in (home / "snapshots").glob("*"))
    if home.name.startswith("models--") and not (folder / INDEX).exists():
        raise UnusableCheckpoint(
            f"{folder}: a repository of the hub's cache; name a snapshot of it: "
            f"{', '.join(str(home / 'snapshots' / name) for name in snapshots) or 'there is none'}."
        )
    return folder


def _named_path(checkpoint: str) -> Path:
    try:
        return (ROOT / Path(checkpoint).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, no such user, a NUL
        raise UnusableCheckpoint(f"{checkpoint!r}: cannot be a path: {error}") from error


def _hub_id(checkpoint: str) -> tuple[str, str]:
    """Return name and commit."""
    named = _named_path(checkpoint)
    if named.name == INDEX and named.is_file():
        raise UnusableCheckpoint(f"{checkpoint}: a file of a checkpoint; name its folder: {named.parent}.")
    name, _, revision = checkpoint.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UnusableCheckpoint(f"{checkpoint}: no such folder or file, and not a hub id (owner/name@commit).")
    if not COMMIT.fullmatch(revision):
        command = f"git ls-remote https://huggingface.co/{name} {revision or 'HEAD'}"
        raise UnusableCheckpoint(
            f"{checkpoint}: no such folder or file, and a hub id is taken with its commit alone, as anything else can "
            f"change: {name}@commit, where `{command}` tells the commit."
        )
    return name, revision
