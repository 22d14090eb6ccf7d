"""The correctness anchor: with any sampler, our image is that of the diffusers pipeline.

The reference is the pipeline loaded from the folder, its scheduler exchanged as diffusers' users do it (SCHEDULERS).
That each checkpoint's own scheduler is what it gets by default: test_tried_checkpoints.

Two measures, as pixels alone prove nothing on random weights: final latents within 1e-4 relative L2, images within
1/255 a channel. Each cell has a negative control, one step off, that the same measure must refuse.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import CLIPTextModel

from models.parameters import SAMPLERS
from models.samplers import OWN
from models.spec import ImageSpec
from tests.stages import Stages, other

LATENTS_WITHIN = 1e-4
LINEAR = {"clip_sample": False}
DPMPP = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
SCHEDULERS = {  # as the table of "Schedulers" in diffusers' documentation names them
    "ddim": ("DDIMScheduler", LINEAR),
    "ddpm": ("DDPMScheduler", LINEAR),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", DPMPP),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", DPMPP | {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", DPMPP | {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_singlestep": ("DPMSolverSinglestepScheduler", DPMPP),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", LINEAR),
    "tcd": ("TCDScheduler", LINEAR),
}
NAMED = [sampler for sampler in SAMPLERS if sampler != OWN]
CHECKPOINTS = ("shapes", "tiny_sd", "tiny_sd2", "tiny_sdxl")
STEPS = (2, 7, 20)
OPTIONS = ("negative_prompt", "guidance_rescale", "clip_skip")  # that the pipeline is told of where they are not empty
GUIDES = ((1.0, ""), (5.0, ""), (5.0, "blue"))  # guidance scale, negative prompt
NARROWER = (0, 4)  # latent cells: a step of the sizes that every one of the UNets takes
# Of every day: each sampler once, and between them each checkpoint, step count, guide and width several times.
SLICE = [
    (CHECKPOINTS[k % 4], (sampler, STEPS[k % 3], GUIDES[(k + k // 4) % 3], NARROWER[k // 4 % 2]))
    for k, sampler in enumerate(NAMED)
]


@contextmanager
def added_up_in_float64(scheduler: Any) -> Iterator[None]:
    """Let diffusers' Euler schedulers compute their steps in float64 where they say float32; nothing else changes.

    At zero SNR their first step takes a number near 4096 from another and keeps 13 of it, with float32's error of 2e-4.
    A sharp model magnifies that: euler, 20 steps, guidance 1 ends 2.2e-4 from a loop in float64, ours 4e-6 from it.
    """
    is_zero_snr = scheduler.config.get("rescale_betas_zero_snr")
    if not (type(scheduler).__name__.startswith("Euler") and is_zero_snr):  # elsewhere the pipeline is untouched
        yield
        return
    wide = SimpleNamespace(**vars(torch) | {"float32": torch.float64})
    with patch.object(sys.modules[type(scheduler).__module__], "torch", wide):
        yield


@pytest.fixture
def pipeline_of_transformers_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `clip_skip` of diffusers' pipelines find the text encoder's last norm where transformers 4 had it."""
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda encoder: encoder), raising=False)


class Pair:
    """A checkpoint in our stages and in its diffusers pipeline."""

    def __init__(self, folder: Path) -> None:
        self.stages = Stages(folder)
        self.pipeline = DiffusionPipeline.from_pretrained(folder)
        self.pipeline.set_progress_bar_config(disable=True)
        self._config = self.pipeline.scheduler.config

    def spec(self, sampler: str, steps: int, guide: tuple[float, str], narrower: int) -> ImageSpec:
        guidance, negative = guide
        spec = self.stages.spec(
            sampler=sampler, num_inference_steps=steps, guidance_scale=guidance, negative_prompt=negative, seed=steps
        )
        return other(spec, width=spec.width - narrower * self.stages.model.scale)

    def theirs(self, spec: ImageSpec, output_type: str) -> np.ndarray:
        class_name, options = SCHEDULERS[spec.sampler]
        self.pipeline.scheduler = getattr(diffusers, class_name).from_config(self._config, **options)
        options = {name: getattr(spec, name) for name in OPTIONS if getattr(spec, name)}
        with added_up_in_float64(self.pipeline.scheduler):
            output = self.pipeline(
                spec.prompt,
                **options,
                width=spec.width,
                height=spec.height,
                num_inference_steps=spec.num_inference_steps,
                guidance_scale=spec.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(spec.seed),
                output_type=output_type,
            ).images[0]
        return output.numpy() if output_type == "latent" else np.asarray(output)


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest) -> dict[str, Pair]:
    return {name: Pair(request.getfixturevalue(name)) for name in CHECKPOINTS}


def gap(ours: np.ndarray, reference: np.ndarray) -> float:
    """Relative L2."""
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def check(pair: Pair, *cells: tuple) -> None:
    """Hold our pictures and their negative controls, drawn together, against the pipeline's."""
    specs = [pair.spec(*cell) for cell in cells]
    states = [pair.stages.state(spec, steps_off=off) for spec in specs for off in (0, 1)]
    latents = pair.stages.denoise(*states)
    for cell, spec, ours, one_off in zip(cells, specs, latents[::2], latents[1::2], strict=True):
        reference = pair.theirs(spec, "latent")
        assert reference.shape[-1] * pair.stages.model.scale == spec.width
        assert gap(ours, reference) < LATENTS_WITHIN, cell
        assert gap(one_off, reference) > LATENTS_WITHIN, cell


@pytest.mark.parametrize(("checkpoint", "cell"), SLICE)
def test_our_latents_are_those_of_the_diffusers_pipeline(pairs, checkpoint, cell):
    check(pairs[checkpoint], cell)


@pytest.mark.nightly
@pytest.mark.parametrize("narrower", NARROWER)
@pytest.mark.parametrize("sampler", NAMED)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_so_they_are_in_the_whole_table(pairs, checkpoint, sampler, narrower):
    check(pairs[checkpoint], *[(sampler, steps, guide, narrower) for steps, guide in product(STEPS, GUIDES)])


@pytest.mark.parametrize(
    ("checkpoint", "sampler"),
    [
        pytest.param(checkpoint, sampler, marks=() if sampler == NAMED[c] else pytest.mark.nightly)
        for (c, checkpoint), sampler in product(enumerate(CHECKPOINTS), NAMED)
    ],
)
def test_our_picture_is_that_of_the_diffusers_pipeline(pairs, checkpoint, sampler):
    pair = pairs[checkpoint]
    spec = pair.spec(sampler, 10, (5.0, ""), 0)
    reference = pair.theirs(spec, "pil")
    difference = np.abs(pair.stages.picture(spec).astype(int) - reference.astype(int))
    assert reference.shape == (spec.height, spec.width, 3)
    assert difference.max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 8.0])
@pytest.mark.parametrize(
    "steps", [4, pytest.param(2, marks=pytest.mark.nightly), pytest.param(7, marks=pytest.mark.nightly)]
)
def test_a_distilled_checkpoint_takes_its_guidance_as_an_input(tiny_lcm, steps, guidance):
    pair = Pair(tiny_lcm)
    cell = "lcm", steps, (guidance, ""), 0
    check(pair, cell)
    assert pair.stages.state(pair.spec(*cell)).rows == 1
    stronger = other(pair.spec(*cell), guidance_scale=guidance + 1)
    assert gap(pair.stages.latents(stronger), pair.stages.latents(pair.spec(*cell))) > LATENTS_WITHIN


@pytest.mark.parametrize(
    "fields",
    [
        {"guidance_rescale": 0.7},
        {"guidance_rescale": 1.0, "negative_prompt": "blue"},
        {"clip_skip": 1, "negative_prompt": "blue"},
        {"clip_skip": 2, "guidance_rescale": 0.3},
        {"clip_skip": 2, "guidance_scale": 1.0},
    ],
)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_guidance_rescale_and_clip_skip_do_what_they_do_in_the_pipeline(
    pairs, checkpoint, fields, pipeline_of_transformers_4
):
    pair = pairs[checkpoint]
    spec = other(pair.spec("euler", 5, (5.0, ""), 0), **fields)
    without = other(spec, guidance_rescale=0.0, clip_skip=0)
    ours, plain = pair.stages.denoise(*map(pair.stages.state, (spec, without)))
    reference = pair.theirs(spec, "latent")
    assert gap(ours, reference) < LATENTS_WITHIN
    assert gap(plain, reference) > LATENTS_WITHIN


def test_images_that_differ_in_them_share_their_forwards(tiny_sd):
    stages = Stages(tiny_sd)  # that has measured nothing yet
    fields = ({}, {"guidance_rescale": 0.7}, {"guidance_rescale": 0.3, "clip_skip": 1}, {"clip_skip": 2})
    states = [stages.state(stages.spec(num_inference_steps=1, **each)) for each in fields]
    together = stages.denoise(*states)
    assert {stages.outcomes(state)[0].batch_images for state in states} == {len(fields)}
    assert all(gap(ours, together[0]) > LATENTS_WITHIN for ours in together[1:])


def test_a_distilled_checkpoint_skips_layers_too(tiny_lcm, pipeline_of_transformers_4):
    pair = Pair(tiny_lcm)
    spec = other(pair.spec("lcm", 4, (8.0, ""), 0), clip_skip=1)
    reference = pair.theirs(spec, "latent")
    assert gap(pair.stages.latents(spec), reference) < LATENTS_WITHIN
    assert gap(pair.stages.latents(other(spec, clip_skip=0)), reference) > LATENTS_WITHIN
