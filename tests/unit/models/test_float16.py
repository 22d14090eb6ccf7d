"""float16: an image is near that of the diffusers pipeline in float16, and one that overflows fails."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from models.errors import NonFinite
from models.spec import ImageSpec
from tests.stages import Stages

APART = 0.01  # relative L2 of latents in float16 from those in float32, and from each other


@pytest.fixture(params=["shapes", "tiny_sd2", "tiny_sdxl"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def reference(folder: Path, spec: ImageSpec) -> np.ndarray:
    """Final latents of the pipeline in float16."""
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float16)
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(
        spec.prompt,
        width=spec.width,
        height=spec.height,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(spec.seed),
        output_type="latent",
    )
    return output.images[0].float().numpy()


def gap(ours: np.ndarray, other: np.ndarray) -> float:
    """Relative L2."""
    return float(np.linalg.norm(ours - other) / np.linalg.norm(other))


def test_an_image_in_float16_is_near_that_of_the_pipeline_in_float16(folder: Path) -> None:
    half, full = Stages(folder, dtype=torch.float16), Stages(folder)
    spec = full.spec(num_inference_steps=3, guidance_scale=5.0)
    ours, exact, theirs = half.latents(spec), full.latents(spec), reference(folder, spec)
    assert {half.model.dtype, half.text_encoder._components.loaded["text_encoder"].dtype} == {torch.float16}
    assert 0 < gap(ours, exact) < APART
    assert gap(ours, theirs) < APART
    [image], [exact_image] = half.pixels(ours), full.pixels(exact)
    assert np.abs(image.astype(int) - exact_image.astype(int)).mean() < 2  # of 255


def test_an_image_that_overflows_float16_fails_and_says_so(tiny_sd: Path) -> None:
    half, full = Stages(tiny_sd, dtype=torch.float16), Stages(tiny_sd)
    for stages in (half, full):
        stages.model._model.conv_out.weight.data.fill_(6e4)
    states = half.state(half.spec()), full.state(full.spec())
    for stages, state in zip((half, full), states, strict=True):
        stages.engine._batcher.add(state)
        with torch.inference_mode():
            stages.engine.step()
    assert isinstance(half.outcomes(states[0])[-1], NonFinite)
    assert not isinstance(full.outcomes(states[1])[-1], NonFinite)
