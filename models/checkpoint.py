"""A diffusers folder or hub id, and the card that says what it allows. No torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from models.checkpoint_files import (
    DESCRIPTION,
    MANIFEST,
    check_manifest,
    check_parts,
    checked_files,
    digest,
    file_sums,
    read_json,
)
from models.errors import UnusableCheckpoint
from models.families.known import FAMILIES
from models.spec import SAMPLERS, ModelCard

Entry = TypeVar("Entry")

ROOT = Path(__file__).parents[1]
DISTILLED_DEFAULTS = {"num_inference_steps": 4, "guidance_scale": 8.0, "sampler": "lcm"}
COMMIT = re.compile("[0-9a-f]{40}")
HUB_FILES = ["model_index.json", "darkroom.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
HUB_IGNORED = ["*.fp16.safetensors", "*non_ema*", "safety_checker/*", "feature_extractor/*"]
SAMPLER_OF_CLASS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DEISMultistepScheduler": "deis",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_singlestep",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "kdpm2",
    "LCMScheduler": "lcm",
    "PNDMScheduler": "pndm",
    "TCDScheduler": "tcd",
    "UniPCMultistepScheduler": "unipc",
}


class OwnWord(BaseModel):
    """What a checkpoint says of itself in `darkroom.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: dict[str, Any] = {}
    bounds: dict[str, tuple[int, int]] = {}
    size_multiple: int | None = None
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
        return folder
    name, revision = _hub_id(checkpoint)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        fetched = snapshot_download(name, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=HUB_IGNORED)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnusableCheckpoint(f"{checkpoint}: no such folder, and the hub gave: {reason}") from error
    return Path(fetched)


def check(checkpoint: str) -> None:
    """Check what can be checked at once, however large it is: sums and the hub are left to `read_card`.

    Raises:
        UnusableCheckpoint: neither a folder nor a hub id with its commit; or names the file that is at fault.
    """
    folder = _named_folder(checkpoint)
    if not folder.is_dir():
        _hub_id(checkpoint)
        return
    for _ in checked_files(folder, FAMILIES[_pipeline(folder)]):
        pass  # it is checked before it is yielded


def locate_parts(checkpoint: str, card: ModelCard, *parts: str) -> Path:
    """Return the folder of a checkpoint, some parts of which are those that the card was read from.

    Raises:
        UnusableCheckpoint: names the file that another machine, or another moment, has differently.
    """
    folder = locate(checkpoint)
    check_parts(folder, card.family, card.files, parts)
    return folder


def read_entry(folder: Path, name: str, key: str, kind: type[Entry]) -> Entry:
    """Return one entry of a JSON object of the checkpoint.

    Raises:
        UnusableCheckpoint: the file is missing or broken, or has no such entry of this kind; names the file.
    """
    value = read_json(folder, name).get(key)
    if not isinstance(value, kind):
        raise UnusableCheckpoint(f"{folder / name}: has no {key}, or one that is no {kind.__name__}.")
    return value


def read_card(checkpoint: str, operators: Mapping[str, Any] | None = None, manifest: Path | None = None) -> ModelCard:
    """Return the card of a checkpoint whose every file has been checked.

    Defaults are what its configs say, then what its own `darkroom.json` says, if it has one, then the operator's.
    `manifest` lists the SHA-256 sums that its files must have; without one its own `SHA256SUMS` does, if it has one.

    Raises:
        UnusableCheckpoint: names the file that is missing, broken, unsafe, not as listed or of an unknown family.
    """
    folder = locate(checkpoint)
    pipeline = _pipeline(folder)
    family = FAMILIES[pipeline]
    sums = file_sums(folder, family)
    if manifest or (folder / MANIFEST).exists():
        check_manifest(manifest or folder / MANIFEST, sums)
    own = _own_word(folder)
    scale = 2 ** (len(read_entry(folder, "vae/config.json", "block_out_channels", list)) - 1)
    side = read_entry(folder, "unet/config.json", "sample_size", int) * scale
    return ModelCard(
        id=Path(checkpoint.partition("@")[0]).name,
        family=family,
        digest=digest(sums),
        files=sums,
        defaults=_defaults(folder, pipeline, side) | own.defaults | dict(operators or {}),
        bounds={"width": (8 * scale, 2 * side), "height": (8 * scale, 2 * side)} | own.bounds,
        size_multiple=own.size_multiple or scale,
        samplers=SAMPLERS,
        max_tokens=read_entry(folder, "tokenizer/tokenizer_config.json", "model_max_length", int) - 2,
        styles=own.styles,
        notice=own.notice,
        examples=own.examples,
    )


def _named_folder(checkpoint: str) -> Path:
    return (ROOT / Path(checkpoint).expanduser()).resolve()


def _hub_id(checkpoint: str) -> tuple[str, str]:
    """Return name and commit."""
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


def _pipeline(folder: Path) -> str:
    """Return the class of pipeline that the checkpoint is for, one that is served here."""
    pipeline = str(read_json(folder, "model_index.json").get("_class_name"))
    if pipeline not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UnusableCheckpoint(f"{folder / 'model_index.json'}: {pipeline} is not served here; known: {known}.")
    return pipeline


def _defaults(folder: Path, pipeline: str, side: int) -> dict[str, Any]:
    scheduler = read_json(folder, "scheduler/scheduler_config.json").get("_class_name")
    defaults = {
        "negative_prompt": "",
        "width": side,
        "height": side,
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "sampler": SAMPLER_OF_CLASS.get(str(scheduler), "dpmpp_2m"),
        "output_format": "png",
    }
    return defaults | (DISTILLED_DEFAULTS if pipeline == "LatentConsistencyModelPipeline" else {})


def _own_word(folder: Path) -> OwnWord:
    if not (folder / DESCRIPTION).exists():
        return OwnWord()
    try:
        return OwnWord.model_validate(read_json(folder, DESCRIPTION))
    except ValidationError as error:
        wrong = error.errors()[0]
        entry = ".".join(map(str, wrong["loc"]))
        raise UnusableCheckpoint(f"{folder / DESCRIPTION}: {entry}: {wrong['msg']}.") from error
