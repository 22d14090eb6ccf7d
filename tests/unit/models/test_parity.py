"""The correctness anchor: our picture is the diffusers pipeline's picture.

Two measures, as pixels alone prove nothing on random weights: final latents within 1e-4 relative L2, pictures within
1/255 a channel. Each cell has a negative control, one step off, that the same measure must refuse.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from models.sampling import new_scheduler
from models.spec import SAMPLERS, ImageSpec
from tests.stages import Stages, other

LATENTS_WITHIN = 1e-4
CHECKPOINTS = ("shapes", "tiny_sd")


@pytest.fixture(scope="module", params=CHECKPOINTS)
def pair(request: pytest.FixtureRequest) -> tuple[Stages, StableDiffusionPipeline]:
    folder: Path = request.getfixturevalue(request.param)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return Stages(folder), pipeline


def theirs(pipeline: StableDiffusionPipeline, config: dict, spec: ImageSpec, output_type: str) -> np.ndarray:
    pipeline.scheduler = new_scheduler(config, spec.sampler)
    output = pipeline(
        spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.width,
        height=spec.height,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(spec.seed),
        output_type=output_type,
    ).images[0]
    return output.numpy() if output_type == "latent" else np.asarray(output)


def gap(ours: np.ndarray, reference: np.ndarray) -> float:
    """Relative L2."""
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize(
    ("sampler", "steps", "guidance", "negative"),
    [cell for cell in product(SAMPLERS, (2, 7, 20), (1.0, 5.0), ("", "blue")) if cell[2] > 1 or not cell[3]],
)
def test_our_latents_are_those_of_the_diffusers_pipeline(pair, sampler, steps, guidance, negative):
    stages, pipeline = pair
    spec = stages.spec(
        sampler=sampler, num_inference_steps=steps, guidance_scale=guidance, negative_prompt=negative, seed=steps
    )
    reference = theirs(pipeline, stages.unet.scheduler_config, spec, "latent")
    assert gap(stages.latents(spec), reference) < LATENTS_WITHIN
    assert gap(stages.latents(spec, steps_off=1), reference) > LATENTS_WITHIN


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_our_picture_is_that_of_the_diffusers_pipeline(pair, sampler):
    stages, pipeline = pair
    spec = stages.spec(sampler=sampler, num_inference_steps=10, guidance_scale=5.0)
    reference = theirs(pipeline, stages.unet.scheduler_config, spec, "pil")
    difference = np.abs(stages.picture(spec).astype(int) - reference.astype(int))
    assert reference.shape == (spec.height, spec.width, 3)
    assert difference.max() <= 1


def test_another_size_than_the_default_matches_too(pair):
    stages, pipeline = pair
    multiple = max(stages.card.size_multiple, 32)
    width = stages.card.defaults["width"] + multiple
    spec = other(stages.spec(num_inference_steps=4, guidance_scale=5.0), width=width)
    reference = theirs(pipeline, stages.unet.scheduler_config, spec, "latent")
    assert reference.shape[-1] * stages.unet.scale == width
    assert gap(stages.latents(spec), reference) < LATENTS_WITHIN
