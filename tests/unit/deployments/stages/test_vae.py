"""The Vae's shell, without Ray: what an operator's post-processors do to files, and to images that fail."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.app import build_model
from deployments.image_store import StoredImage
from deployments.model_config import ModelConfig, VaeConfig
from deployments.stages.vae import Vae
from models.checkpoint.card import read_card
from models.errors import DarkroomError, PostProcessFailed, Refused
from models.postprocess import UnusablePostProcessor
from tests.fakes import a_spec
from tests.post_processors import MARK, TRAILER


def stored(shapes: Path, images: Path, *names: str, prompts: tuple[str, ...]) -> list[StoredImage | DarkroomError]:
    """Decode an image for each prompt, together; the files have the numbers of the prompts."""
    entries = tuple(f"tests.post_processors:{name}" for name in names)
    config = ModelConfig(checkpoint=str(shapes), postprocess=entries, vae=VaeConfig(threads=1))
    vae = Vae(config, read_card(str(shapes)))
    latents = np.random.default_rng(0).standard_normal((8, 16, 16)).astype(np.float32)
    return vae._decode_and_store(
        [(a_spec(prompt=prompt), latents, str(images), f"{number}.png", "me") for number, prompt in enumerate(prompts)]
    )


def test_the_file_has_what_post_processors_made_of_pixels_and_bytes(shapes: Path, tmp_path: Path) -> None:
    [outcome] = stored(shapes, tmp_path, "Watermark", "Signature", prompts=("a circle",))
    content = next(tmp_path.rglob("0.png")).read_bytes()
    assert content.endswith(TRAILER)
    assert outcome == StoredImage(len(content), tiled=False)
    image = Image.open(io.BytesIO(content))
    assert image.getpixel((127, 127)) == MARK
    assert image.getpixel((0, 0)) != MARK
    assert "a circle" in image.text["parameters"]


def test_an_image_that_is_refused_is_not_stored_and_its_neighbours_are(shapes: Path, tmp_path: Path) -> None:
    outcomes = stored(shapes, tmp_path, "SafetyCheck", prompts=("a circle", "a weapon", "a star"))
    assert [type(outcome) for outcome in outcomes] == [StoredImage, Refused, StoredImage]
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["0.png", "2.png"]


def test_an_image_whose_post_processor_fails_is_not_stored(shapes: Path, tmp_path: Path) -> None:
    [outcome] = stored(shapes, tmp_path, "Broken", prompts=("a circle",))
    assert isinstance(outcome, PostProcessFailed)
    assert not list(tmp_path.rglob("*.png"))


def test_a_model_whose_post_processor_cannot_be_used_is_refused_before_a_replica_starts(shapes: Path) -> None:
    config = ModelConfig(checkpoint=str(shapes), postprocess=("tests.post_processors:Misspelt",))
    with pytest.raises(UnusablePostProcessor, match="Misspelt overrides neither"):
        build_model(config)
