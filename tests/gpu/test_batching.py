"""On a GPU too, batching never shows, and pictures are the CPU's within what its arithmetic allows."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.arrivals import EngineHarness, arrivals, check, difference
from tests.stages import Stages

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


@pytest.fixture(scope="module", params=[False, True], ids=["default", "batch_invariant"])
def harness(request: pytest.FixtureRequest, tiny_sd) -> EngineHarness:
    return EngineHarness(tiny_sd, GPU, invariant=request.param)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whoever_comes_goes_or_fails_the_others_pictures_stay_the_same(harness, data):
    check(harness, data.draw(arrivals(harness.stages)))


@pytest.mark.parametrize("checkpoint", ["shapes", "tiny_sd", "tiny_sd2", "tiny_sdxl"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler_ancestral"])
def test_the_gpus_picture_is_the_cpus(request, checkpoint, sampler):
    folder = request.getfixturevalue(checkpoint)
    here, there = Stages(folder), Stages(folder, device=GPU)
    spec = here.spec(sampler=sampler, num_inference_steps=8, guidance_scale=4.0)
    assert difference(here, here.latents(spec), there.latents(spec)) <= 2
