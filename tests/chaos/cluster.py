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
from tests.chaos.drill import upload_inputs
from tests.cluster import Cluster, configured

CHECKPOINT = ROOT / "models/checkpoints/shapes"
POISON = "tree"  # the word whose embedding is not a number
QUEUE = {"max_waiting": 320, "result_ttl_s": 86400}


def for_drills(config: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return a config whose model is a `poisoned_checkpoint`, with `batch_invariant` and small forwards."""
    config = copy.deepcopy(config)
    application(config, "shapes")["args"] |= {
        "checkpoint": str(checkpoint),
        "batch_invariant": True,  # pictures can be compared bit by bit
        "adapters": None,  # each forward would add their ranks to each row
    }
    denoiser(config)["user_config"]["max_rows"] = 4  # every forward is filled up to it: a lone picture is no slower
    return config


def denoiser(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Denoiser in the config of the model `shapes`."""
    return next(each for each in application(config, "shapes")["deployments"] if each["name"] == "Denoiser")


def poisoned_checkpoint(folder: Path) -> Path:
    """A relative of the demo model in which one word makes a picture fail: its embedding is not a number."""
    poisoned = scaled_checkpoint(CHECKPOINT, folder / "poisoned", 1.02)
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
    config = for_drills(configured(queue=QUEUE), poisoned_checkpoint(state))
    denoiser(config)["num_replicas"] = denoisers
    cluster = Cluster(state, config, seed)
    cluster.start()
    upload_inputs(cluster)
    try:
        yield cluster
    finally:
        cluster.stop()
