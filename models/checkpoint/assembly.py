"""A single file as a diffusers folder: its configs, written to a cache, and links to the file. No torch."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from models.checkpoint.cache import cache_dir, write_folder
from models.checkpoint.clip import vocabulary_files
from models.checkpoint.configs import read_json
from models.checkpoint.guard import read_header
from models.checkpoint.original_configs import FAMILY_OF, PredictionType, original_configs, vae_config
from models.checkpoint.original_layout import ORIGINAL, Kind, recognise
from models.errors import UnusableCheckpoint
from models.families.base import Component
from models.families.registry import FAMILIES

CONVERT = (
    "python -c \"import sys, torch, safetensors.torch; t = torch.load(sys.argv[1], 'cpu', weights_only=True); "
    "safetensors.torch.save_file({k: v.clone() for k, v in t.get('state_dict', t).items() if torch.is_tensor(v)}, "
    'sys.argv[2])"'
)


class Overrides(NamedTuple):
    """What an operator says of a single file that it does not say itself."""

    vae: str | None = None  # a file, or a folder with config.json, that is used in place of the file's own
    prediction_type: PredictionType | None = None


AS_IT_IS = Overrides()


def assemble(file: Path, vae: Path | None, prediction_type: PredictionType | None) -> Path:
    """Return a folder of the configs of a single file, whose weights are links to it.

    Raises:
        UnusableCheckpoint: the file is none that is served, or has no VAE and none is named; or the folder cannot be
            written.
    """
    _check_format(file)
    kind, header = recognise(file)
    configs = original_configs(file, kind, header, prediction_type)
    texts = {name: json.dumps(config, indent=1) for name, config in configs.items()}
    components = FAMILIES[FAMILY_OF[kind]].components
    for name in (name for name in components if "tokenizer" in name):
        texts |= {f"{name}/{words}": content for words, content in vocabulary_files().items()}
    links = {f"{name}/{ORIGINAL}": file for name, each in components.items() if each.weights and name != "vae"}
    if vae is not None and vae.is_dir():
        _check_class(vae, components["vae"])
        links["vae"] = vae
    else:
        texts["vae/config.json"] = json.dumps(_needed_vae(file, vae, kind), indent=1)
        links[f"vae/{ORIGINAL}"] = vae or file
    return write_folder(file.stem, texts, links)


def link_targets(folder: Path) -> list[Path]:
    """Return what the links of an assembled folder lead to, none of another folder: those are not ours."""
    if folder.parent != cache_dir():
        return []
    links = [*folder.glob(f"*/{ORIGINAL}"), folder / "vae"]
    return sorted({link.resolve() for link in links if link.is_symlink()})


def guesses(folder: Path, overrides: Overrides) -> list[str]:
    """Say what was assumed of the single file of an assembled folder."""
    if not link_targets(folder) or overrides.prediction_type is not None:
        return []
    kind, header = recognise((folder / "unet" / ORIGINAL).resolve())
    predicts = read_json(folder, "scheduler/scheduler_config.json")["prediction_type"]
    if kind != "sd2" or predicts == "epsilon" or "v_pred" in header:
        return []
    return [
        "The file does not say what its UNet predicts; taken for v_prediction, as most of Stable Diffusion 2.x. If "
        "images are noise, set prediction_type: epsilon."
    ]


def _check_format(file: Path) -> None:
    if file.suffix != ".safetensors":
        raise UnusableCheckpoint(
            f"{file}: only .safetensors files are read; other formats can run code. Convert it where you trust it: "
            f"{CONVERT} {file.name} {file.stem}.safetensors"
        )


def _check_class(folder: Path, component: Component) -> None:
    found = read_json(folder, "config.json").get("_class_name", component.classes[0])
    if found not in component.classes:
        raise UnusableCheckpoint(f"{folder / 'config.json'}: is {found}; must be {' or '.join(component.classes)}.")


def _needed_vae(file: Path, vae: Path | None, kind: Kind) -> dict[str, Any]:
    """Return the config of the VAE that is used: another one's where it is named, else the file's own."""
    used = vae or file
    _check_format(used)
    config = vae_config(used, kind, read_header(used))
    if config is None and vae:
        raise UnusableCheckpoint(f"{vae}: has no VAE.")
    if config is None:
        raise UnusableCheckpoint(
            f"{file}: has no VAE. Name one as vae.checkpoint in the model's config, or as --vae: a file, or the folder "
            "vae of a diffusers folder."
        )
    return config
