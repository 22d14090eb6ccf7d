"""What building an application costs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.serve import Application

from deployments.app import build_model
from deployments.model_config import ModelConfig
from deployments.stages import STAGES
from models.errors import UnusableAdapter, UnusableCheckpoint
from models.latent_rgb import fit_latent_rgb
from models.vae import load_vae

ROOT = Path(__file__).parents[3]
REFUSED = """
import sys
from deployments.app import build_model
from deployments.model_config import ModelConfig
from models.errors import UnusableAdapter, UnusableCheckpoint

try:
    build_model(ModelConfig(checkpoint=sys.argv[1]))
except UnusableCheckpoint as error:
    print(error, "torch" in sys.modules)
"""


def test_a_checkpoint_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REFUSED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'model_index.json'}: missing. False\n"


def test_defaults_that_the_model_does_not_allow_are_all_named(shapes: Path) -> None:
    config = ModelConfig.model_validate({"checkpoint": str(shapes), "defaults": {"width": 256, "clip_skip": 9}})
    with pytest.raises(UnusableCheckpoint) as caught:
        build_model(config)
    of_width, of_clip_skip = (
        "width must be 128 for shapes, got 256.",
        "clip_skip must be from 0 to 2 for shapes, got 9.",
    )
    assert str(caught.value) == f"defaults: {of_width} {of_clip_skip}"


def test_a_folder_of_adapters_that_is_not_there_is_refused_at_start(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableAdapter, match=r"adapters: .*/none: no such folder\."):
        build_model(ModelConfig(checkpoint=str(shapes), adapters=tmp_path / "none"))


def test_a_folder_of_embeddings_that_is_not_there_is_refused_at_start(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableAdapter, match=r"embeddings: .*/none: no such folder\."):
        build_model(ModelConfig(checkpoint=str(shapes), embeddings=tmp_path / "none"))


@pytest.fixture(scope="module")
def model(shapes: Path) -> Application:
    """The application of the model that ships here."""
    return build_model(ModelConfig(checkpoint=str(shapes)))


def test_a_models_application_has_the_stages_of_the_table(model: Application) -> None:
    _, *stages = model._bound_deployment.init_args
    assert [stage._bound_deployment.name for stage in stages] == [stage.deployment for stage in STAGES]


def test_a_models_card_has_the_map_of_its_previews(shapes: Path, model: Application) -> None:
    card = model._bound_deployment.init_args[0]
    vae = load_vae(shapes, card.family, torch.device("cpu"))
    assert np.array(card.latent_rgb).shape == (9, 3)
    assert np.array(card.latent_rgb) == pytest.approx(np.array(fit_latent_rgb(vae)), abs=1e-5)
