"""A diffusers folder or hub id, and the card that says what it allows. Reads JSON and hashes files; no torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import UnusableCheckpoint
from models.families.known import FAMILIES, PARTS
from models.spec import SAMPLERS, ModelCard

ROOT = Path(__file__).parents[1]
DISTILLED_DEFAULTS = {"num_inference_steps": 4, "guidance_scale": 8.0, "sampler": "lcm"}
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


def locate(checkpoint: str) -> Path:
    """Return the folder of a checkpoint, fetching `owner/name[@revision]` from the hub where it is no folder.

    A relative folder is relative to the repository, as a replica's working directory is Ray's.

    Raises:
        UnusableCheckpoint: neither a folder nor a hub id that can be fetched.
    """
    folder = (ROOT / Path(checkpoint).expanduser()).resolve()
    if folder.is_dir():
        return folder
    name, _, revision = checkpoint.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UnusableCheckpoint(f"{checkpoint}: no such folder, and not a hub id (owner/name[@revision]).")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        fetched = snapshot_download(
            name, revision=revision or None, allow_patterns=HUB_FILES, ignore_patterns=HUB_IGNORED
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnusableCheckpoint(f"{checkpoint}: no such folder, and the hub gave: {reason}") from error
    return Path(fetched)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON object of the checkpoint.

    Raises:
        UnusableCheckpoint: missing, or not a JSON object; names the file.
    """
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnusableCheckpoint(f"{path}: missing.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnusableCheckpoint(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnusableCheckpoint(f"{path}: not a JSON object.")
    return content


def read_entry(folder: Path, name: str, key: str) -> Any:
    """Return one entry of a JSON object of the checkpoint.

    Raises:
        UnusableCheckpoint: the file is missing or broken, or has no such entry; names the file.
    """
    content = read_json(folder, name)
    if key not in content:
        raise UnusableCheckpoint(f"{folder / name}: has no {key}.")
    return content[key]


def read_card(checkpoint: str, model_id: str | None = None, operators: Mapping[str, Any] | None = None) -> ModelCard:
    """Return the card of a checkpoint.

    Defaults are what its configs say, then what its own `darkroom.json` says, if it has one, then the operator's.

    Raises:
        UnusableCheckpoint: names the file that is missing, broken or of an unknown family.
    """
    folder = locate(checkpoint)
    pipeline = read_json(folder, "model_index.json").get("_class_name")
    if pipeline not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UnusableCheckpoint(f"{folder / 'model_index.json'}: {pipeline} is not served here; known: {known}.")
    scheduler = read_json(folder, "scheduler/scheduler_config.json")
    scale = 2 ** (len(read_entry(folder, "vae/config.json", "block_out_channels")) - 1)
    side = read_entry(folder, "unet/config.json", "sample_size") * scale
    max_length = read_entry(folder, "tokenizer/tokenizer_config.json", "model_max_length")
    own = read_json(folder, "darkroom.json") if (folder / "darkroom.json").exists() else {}
    defaults = {
        "negative_prompt": "",
        "width": side,
        "height": side,
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "sampler": SAMPLER_OF_CLASS.get(scheduler.get("_class_name", ""), "dpmpp_2m"),
        "output_format": "png",
    }
    if pipeline == "LatentConsistencyModelPipeline":
        defaults |= DISTILLED_DEFAULTS
    bounds = {"width": (8 * scale, 2 * side), "height": (8 * scale, 2 * side)}
    return ModelCard(
        id=model_id or Path(checkpoint.partition("@")[0]).name,
        family=FAMILIES[pipeline],
        digest=digest(folder, FAMILIES[pipeline]),
        defaults=defaults | own.get("defaults", {}) | dict(operators or {}),
        bounds=bounds | {name: (low, high) for name, (low, high) in own.get("bounds", {}).items()},
        size_multiple=own.get("size_multiple", scale),
        samplers=SAMPLERS,
        max_tokens=max_length - 2,
        styles=tuple(own.get("styles", ())),
        notice=own.get("notice", ""),
        examples=tuple(own.get("examples", ())),
    )


def digest(folder: Path, family: str) -> str:
    """Return the SHA-256 over names and contents of the configs and weights, part by part.

    Raises:
        UnusableCheckpoint: a part has no config, or no safetensors file; other formats can run code and are not read.
    """
    total = hashlib.sha256()
    for part in PARTS[family]:
        read_json(folder, f"{part}/config.json")
        weights = sorted((folder / part).glob("*.safetensors"))
        if not weights:
            raise UnusableCheckpoint(f"{folder / part}: no .safetensors file; other weight formats are not read.")
        for path in [folder / part / "config.json", *weights]:
            total.update(f"{part}/{path.name}".encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
