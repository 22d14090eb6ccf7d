"""A diffusers folder or hub id: where it is, and what its configs say. No torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from models.checkpoint_files import DESCRIPTION, check_parts, checked_files, find_weights
from models.configs import read_json
from models.errors import UnusableCheckpoint
from models.families.base import Domain
from models.families.registry import FAMILIES, PIPELINES
from models.parameters import MAX_SIDE, MAX_STEPS, OutputFormat
from models.spec import ModelCard

ROOT = Path(__file__).parents[1]
COMMIT = re.compile("[0-9a-f]{40}")
HUB_FILES = ["model_index.json", "darkroom.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
HUB_IGNORED = ["safety_checker/*", "feature_extractor/*"]
HUB_VARIANTS = ["*.fp16*", "*non_ema*"]  # fetched only where a component has no other weights
INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"


class OwnDefaults(BaseModel):
    """The fields of a request that a checkpoint may have values for. Their bounds are those of requests."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    negative_prompt: str = ""
    width: int = Field(default=0, ge=1, le=MAX_SIDE)
    height: int = Field(default=0, ge=1, le=MAX_SIDE)
    num_inference_steps: int = Field(default=0, ge=1, le=MAX_STEPS)
    guidance_scale: NonNegativeFloat = 0.0
    sampler: str = ""
    output_format: OutputFormat = "png"
    output_compression: NonNegativeInt = 0


class OwnWord(BaseModel):
    """What a checkpoint says of itself in `darkroom.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: OwnDefaults = OwnDefaults()
    bounds: dict[Literal["width", "height", "num_inference_steps"], tuple[PositiveInt, PositiveInt]] = {}
    size_multiple: PositiveInt | None = None
    styles: tuple[str, ...] = ()
    notice: str = ""
    examples: tuple[dict[str, Any], ...] = ()


def locate(checkpoint: str) -> Path:
    """Return the folder of a checkpoint, fetching `owner/name@commit` from the hub where it is no folder.

    A relative folder is relative to the repository, as a replica's working directory is Ray's.

    Raises:
        UnusableCheckpoint: neither a folder nor a hub id that can be fetched, or one without the commit that pins it.
    """
    folder = _named_folder(checkpoint)
    if folder.is_dir():
        return _checked_snapshot(folder)
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
        raise UnusableCheckpoint(f"{checkpoint}: no such folder, and the hub gave: {reason}") from error
    return fetched


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


def check(checkpoint: str, allowed_roots: Sequence[Path] = ()) -> None:
    """Check what can be checked at once, however large it is: sums and the hub are left to `read_card`.

    Raises:
        UnusableCheckpoint: neither a folder nor a hub id with its commit; or names the file that is at fault.
    """
    folder = _named_folder(checkpoint)
    if not folder.is_dir():
        _hub_id(checkpoint)
        return
    _checked_snapshot(folder)
    check_components(folder)
    for _ in checked_files(folder, PIPELINES[pipeline_class(folder)].name, allowed_roots):
        pass  # it is checked before it is yielded
    check_numbers(folder)


def locate_parts(checkpoint: str, card: ModelCard, stage: Domain, allowed_roots: Sequence[Path] = ()) -> Path:
    """Return the folder of a checkpoint whose files for a stage are those that the card was read from.

    Raises:
        UnusableCheckpoint: names the file that another machine, or another moment, has differently.
    """
    folder = locate(checkpoint)
    check_parts(folder, card.family, card.files, FAMILIES[card.family].parts(stage), allowed_roots)
    return folder


def pipeline_class(folder: Path) -> str:
    """Return the class of pipeline that the checkpoint is for.

    Raises:
        UnusableCheckpoint: it is none that is served here.
    """
    pipeline = str(read_json(folder, INDEX).get("_class_name"))
    if pipeline not in PIPELINES:
        known = ", ".join(PIPELINES)
        raise UnusableCheckpoint(f"{folder / INDEX}: {pipeline} is not served here; known: {known}.")
    return pipeline


def check_components(folder: Path) -> None:
    """Check that the components are of the classes that the family loads.

    Raises:
        UnusableCheckpoint: names the entry that is not.
    """
    index, family = read_json(folder, INDEX), PIPELINES[pipeline_class(folder)]
    for name, component in family.components.items():
        library, class_name = _class_entry(index.get(name))
        if library != component.source or class_name not in component.classes:
            known = " or ".join(component.classes)
            raise UnusableCheckpoint(
                f"{folder / INDEX}: {name} is {'.'.join(filter(None, (library, class_name))) or 'missing'}; "
                f"{index['_class_name']} is served with {component.source}'s {known}."
            )


def check_numbers(folder: Path) -> None:
    """Check that the components fit each other.

    Raises:
        UnusableCheckpoint: names the entry that does not.
    """
    pipeline = pipeline_class(folder)
    PIPELINES[pipeline].check(folder, pipeline)


def unused_components(folder: Path) -> list[str]:
    """Return the components that `model_index.json` names and nothing here loads."""
    index = read_json(folder, INDEX)
    loaded = {"scheduler", *PIPELINES[pipeline_class(folder)].components}
    return sorted(name for name, entry in index.items() if name not in loaded and _class_entry(entry)[1])


def _class_entry(entry: Any) -> tuple[str, str]:
    """Return library and class of an entry of `model_index.json`; empty where it names none."""
    pair = entry if isinstance(entry, list) and len(entry) == 2 else ("", "")
    library, class_name = (name if isinstance(name, str) else "" for name in pair)
    return library, class_name


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Return the config of the checkpoint's scheduler as its pipeline has it.

    `_class_name` is the class that `model_index.json` names: it decides also where the config says another one. What
    the pipeline's constructor changes in old configs is changed here.

    Raises:
        UnusableCheckpoint: the index names no scheduler of diffusers.
    """
    library, class_name = _class_entry(read_json(folder, INDEX).get("scheduler"))
    if library != "diffusers" or not class_name:
        raise UnusableCheckpoint(
            f"{folder / INDEX}: scheduler is {class_name or 'missing'}; known: those of diffusers."
        )
    pipeline = pipeline_class(folder)
    repairs = PIPELINES[pipeline].scheduler_repairs.get(pipeline, {})
    return {**read_json(folder, SCHEDULER), **repairs, "_class_name": class_name}


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


def _named_folder(checkpoint: str) -> Path:
    try:
        return (ROOT / Path(checkpoint).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, no such user, a NUL
        raise UnusableCheckpoint(f"{checkpoint!r}: cannot be a path: {error}") from error


def _hub_id(checkpoint: str) -> tuple[str, str]:
    """Return name and commit."""
    named = _named_folder(checkpoint)
    if named.is_file():
        raise UnusableCheckpoint(
            f"{checkpoint}: a single file; checkpoints are diffusers folders. Convert it: "
            "StableDiffusionXLPipeline.from_single_file(file).save_pretrained(folder), or StableDiffusionPipeline."
        )
    name, _, revision = checkpoint.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UnusableCheckpoint(f"{checkpoint}: no such folder, and not a hub id (owner/name@commit).")
    if not COMMIT.fullmatch(revision):
        command = f"git ls-remote https://huggingface.co/{name} {revision or 'HEAD'}"
        raise UnusableCheckpoint(
            f"{checkpoint}: no such folder, and a hub id is taken with its commit alone, as anything else can change: "
            f"{name}@commit, where `{command}` tells the commit."
        )
    return name, revision


def read_own_word(folder: Path) -> OwnWord:
    """Return what the checkpoint says of itself, empty where it says nothing.

    Raises:
        UnusableCheckpoint: names the entry that is wrong.
    """
    if not (folder / DESCRIPTION).exists():
        return OwnWord()
    try:
        return OwnWord.model_validate(read_json(folder, DESCRIPTION))
    except ValidationError as error:
        wrong = error.errors()[0]
        entry = ".".join(map(str, wrong["loc"]))
        raise UnusableCheckpoint(f"{folder / DESCRIPTION}: {entry}: {wrong['msg']}.") from error
