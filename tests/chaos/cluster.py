"""A service that is made to be killed."""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ops.config import ROOT, application
from tests.cluster import Cluster, configured

CHECKPOINT = ROOT / "models/checkpoints/shapes"
POISON = "tree"  # the word whose embedding is not a number
MAX_WAITING = 320


def for_drills(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a config with `batch_invariant`, small forwards, and a checkpoint in `folder` that can fail."""
    config = copy.deepcopy(config)
    model = application(config, "shapes")["args"]
    model["batch_invariant"] = True  # pictures can be compared bit by bit
    model["checkpoint"] = str(poisoned_checkpoint(folder))
    denoiser(config)["user_config"]["max_rows"] = 4  # every forward is filled up to it: a lone picture is no slower
    application(config, "generation")["args"]["queue"] |= {"max_waiting": MAX_WAITING, "result_ttl_s": 86400}
    return config


def denoiser(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Denoiser in the config of the model `shapes`."""
    return next(each for each in application(config, "shapes")["deployments"] if each["name"] == "Denoiser")


def poisoned_checkpoint(folder: Path) -> Path:
    """A copy of the demo model in which one word makes a picture fail: its embedding is not a number."""
    poisoned = shutil.copytree(CHECKPOINT, folder / "shapes")
    tokenizer = json.loads((poisoned / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    word = tokenizer["model"]["vocab"][f"{POISON}</w>"]
    weights = load_file(poisoned / "text_encoder/model.safetensors")
    embeddings = next(name for name in weights if name.endswith("token_embedding.weight"))
    weights[embeddings][word] = nan
    save_file(weights, poisoned / "text_encoder/model.safetensors", metadata={"format": "pt"})
    return poisoned


def scaled_checkpoint(checkpoint: Path, folder: Path, factor: float) -> Path:
    """A copy of a checkpoint with each weight changed a little: stages of the two would not fit."""
    shutil.copytree(checkpoint, folder)
    for path in folder.rglob("*.safetensors"):
        save_file({name: weight * factor for name, weight in load_file(path).items()}, path, {"format": "pt"})
    return folder


@contextmanager
def running_cluster(state: Path, seed: int, denoisers: int = 1) -> Iterator[Cluster]:
    """A cluster that runs, and afterwards does not."""
    config = for_drills(configured(), state)
    denoiser(config)["num_replicas"] = denoisers
    cluster = Cluster(state, config, seed)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
