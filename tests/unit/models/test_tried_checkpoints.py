"""Each checkpoint of docs/checkpoints.md gives the image of its own diffusers pipeline, or is refused in words.

The reference is `DiffusionPipeline.from_pretrained(folder)`, untouched, with the scheduler that the checkpoint names.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from models.checkpoint.card import read_card
from models.checkpoint.location import resolve_checkpoint
from models.errors import UnusableCheckpoint
from models.model_card import ModelCard
from models.spec import ImageSpec
from tests.real_checkpoints import build
from tests.stages import Stages
from tests.tried_checkpoints import LAYOUT_CASES, MODEL_CASES, SCHEDULER_CASES, Case

LATENTS_WITHIN = 1e-4  # relative L2, float32
PIXELS_WITHIN = 1  # of 255
STEPS, FEW_STEPS, SIDE = 6, 2, 64  # of a case about schedulers; of another, which differs in its first step; pixels
CASES = [*MODEL_CASES, *SCHEDULER_CASES, *LAYOUT_CASES]
assert len({case.name for case in CASES}) == len(CASES), "a row of the table has a name of its own"
AT_NIGHT = SCHEDULER_CASES[1::2]
HEAD = """| checkpoint | served | latents apart (relative L2) | pixels apart (of 255) | by default |
|---|---|---|---|---|
"""


def of_the_day(case: Case) -> Any:
    """A case of every day, or one for the night."""
    return pytest.param(case, marks=pytest.mark.nightly) if case in AT_NIGHT else case


def name_of(case: Case) -> str:
    return case.name


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("originals")
    return {kind: build(folder / kind, kind) for kind in ("sd15", "sd21", "sdxl", "lcm")}


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Rows of the table, written into the documentation if that is asked for."""
    found: dict[str, str] = {}
    yield found
    if target := request.config.getoption("--tried-to"):
        page = Path(target)
        before, mark, _ = page.read_text(encoding="utf-8").partition(HEAD)
        assert mark, f"{page} has no table"
        page.write_text(before + HEAD + "\n".join(found[case.name] for case in CASES) + "\n", encoding="utf-8")


@pytest.fixture
def folder(case: Case, originals: dict[str, Path], tmp_path: Path) -> Path:
    """The checkpoint of a case: links to the files of the original, but for those that it changes."""
    folder = Path(shutil.copytree(originals[case.kind], tmp_path / "checkpoint", copy_function=os.link))
    case.edit(folder)
    return folder


@pytest.mark.parametrize("case", [of_the_day(case) for case in CASES if not case.refused], ids=name_of)
def test_a_checkpoint_gives_the_image_of_its_own_pipeline(
    case: Case, folder: Path, rows: dict[str, str], request: pytest.FixtureRequest
) -> None:
    for_the_table = request.config.getoption("--tried-to")  # which is of six steps
    stages = Stages(folder, allowed_roots=case.allowed_roots(folder))
    spec = stages.spec(
        case.prompt,
        negative_prompt=case.negative_prompt,
        width=SIDE,
        height=SIDE,
        num_inference_steps=case.steps or (STEPS if case in SCHEDULER_CASES or for_the_table else FEW_STEPS),
        guidance_scale=case.guidance,
    )
    latents, one_off = stages.denoise(stages.state(spec), stages.state(spec, steps_off=1))
    [image] = stages.pixels(latents)
    reference = Reference(folder, case, spec)
    apart = int(np.abs(image.astype(int) - reference.image.astype(int)).max())
    rows[case.name] = row(case, stages.card, gap(latents, reference.latents), apart)
    assert reference.image.std() > 20, "the image has no contrast, so pixels prove nothing"
    assert gap(latents, reference.latents) < LATENTS_WITHIN
    assert gap(one_off, reference.latents) > LATENTS_WITHIN
    assert apart <= PIXELS_WITHIN
    assert case.sampler in ("", stages.card.defaults["sampler"])
    assert (stages.card.defaults["width"], stages.card.defaults["height"]) == reference.default_size


@pytest.mark.parametrize("case", [case for case in CASES if case.refused], ids=lambda case: case.name)
def test_a_checkpoint_that_cannot_be_served_is_refused_at_start_in_words(
    case: Case, folder: Path, rows: dict[str, str]
) -> None:
    with pytest.raises(UnusableCheckpoint, match=re.escape(case.refused)) as refused:
        read_card(str(folder))
    assert refused.value.message.startswith(str(folder)), "it names the file"
    words = refused.value.message.replace(str(folder) + "/", "").replace(str(folder.parent), "…").replace("|", "\\|")
    rows[case.name] = f"| {case.name} | no | {words} | | |"


class Reference:
    """The image of diffusers' pipeline, and the latents after its last step."""

    def __init__(self, folder: Path, case: Case, spec: ImageSpec) -> None:
        pipeline = DiffusionPipeline.from_pretrained(resolve_checkpoint(str(folder)), variant=case.variant)
        pipeline.set_progress_bar_config(disable=True)
        self.default_size = (pipeline.unet.config.sample_size * pipeline.vae_scale_factor,) * 2

        def keep(_pipeline: object, _step: int, _timestep: object, tensors: dict[str, torch.Tensor]) -> dict:
            self.latents = tensors["latents"][0].numpy().copy()
            return {}

        output = pipeline(
            spec.prompt,
            **({"negative_prompt": spec.negative_prompt} if spec.negative_prompt else {}),
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(spec.seed),
            callback_on_step_end=keep,
        )
        self.image = np.asarray(output.images[0])


def gap(ours: np.ndarray, reference: np.ndarray) -> float:
    """Relative L2."""
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def row(case: Case, card: ModelCard, latents: float, pixels: int) -> str:
    defaults = card.defaults
    chosen = (
        f"{defaults['width']}x{defaults['height']}, {defaults['sampler']}, {defaults['num_inference_steps']} steps, "
        f"guidance {defaults['guidance_scale']:g}"
    )
    return f"| {case.name} | yes | {latents:.0e} | {pixels} | {chosen} |"
