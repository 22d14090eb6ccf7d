"""A sampler plan is its diffusers scheduler, and says so where it cannot be."""

import math
from itertools import product

import pytest
import torch
from diffusers import DDIMScheduler

from models.errors import UnsupportedSampler
from models.sampling import CLASSES, HISTORY, compile_plan, initial_noise, new_scheduler, plan_for
from models.spec import SAMPLERS

BASE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
CONFIGS = [
    BASE | {"prediction_type": prediction, "timestep_spacing": spacing}
    for prediction, spacing in product(("epsilon", "v_prediction"), ("leading", "trailing", "linspace"))
]
WITHIN = 5e-5  # relative L2; Euler's σ of 4096 at zero SNR costs the scheduler itself 3e-5
ZERO_SNR = BASE | {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}


def model(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Stands in for the UNet: not linear, and different at each timestep."""
    return torch.tanh(0.7 * x + timestep / 1000) + 0.1 * x


def by_scheduler(config: dict, sampler: str, steps: int, start: torch.Tensor) -> torch.Tensor:
    scheduler = new_scheduler(config, sampler)
    scheduler.set_timesteps(steps)
    x = start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, return_dict=False)[0]
    return x


def by_plan(config: dict, sampler: str, steps: int, start: torch.Tensor) -> torch.Tensor:
    plan = plan_for(config, sampler, steps)
    latents, outputs = [start * plan.init_noise_sigma], []
    for i in range(len(plan)):
        outputs.insert(0, model(latents[0] * plan.input_scale[i], plan.timesteps[i]))
        pairs = zip(plan.weights[i], latents[:HISTORY] + [0] * (HISTORY - len(latents[:HISTORY])), strict=False)
        x = sum(weight * term for weight, term in pairs)
        x = x + sum(weight * term for weight, term in zip(plan.weights[i][HISTORY:], outputs[:HISTORY], strict=False))
        latents.insert(0, x)
    return latents[0]


@pytest.mark.parametrize(("config", "sampler", "steps"), [*product([*CONFIGS, ZERO_SNR], SAMPLERS, (2, 20))])
def test_a_plan_gives_what_the_schedulers_own_loop_gives(config, sampler, steps):
    start = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = by_scheduler(config, sampler, steps, start)
    ours = by_plan(config, sampler, steps, start)
    off = by_plan(config, sampler, steps + 1, start)
    assert (ours - theirs).norm() / theirs.norm() < WITHIN
    assert (off - theirs).norm() / theirs.norm() > WITHIN


def test_every_sampler_of_the_schema_has_a_class():
    assert set(SAMPLERS) == set(CLASSES)


def test_a_stochastic_scheduler_has_a_weight_for_its_noise():
    """DDIM with eta draws noise of weight σ; its other coefficients are what remains."""

    class Noisy(DDIMScheduler):
        def step(self, model_output, timestep, sample, generator=None, return_dict=True):
            return super().step(model_output, timestep, sample, eta=1.0, generator=generator, return_dict=return_dict)

    scheduler = Noisy.from_config(BASE | {"clip_sample": False})
    plan = compile_plan(scheduler, 5)
    assert all(plan.draws_noise[:-1])
    for i, t in enumerate(scheduler.timesteps):
        variance = scheduler._get_variance(int(t), int(t) - 200)
        assert math.isclose(plan.weights[i, -1], variance.sqrt(), rel_tol=1e-4, abs_tol=1e-6)


def test_a_scheduler_that_clips_is_refused():
    scheduler = DDIMScheduler.from_config(BASE | {"clip_sample": True, "clip_sample_range": 0.01})
    with pytest.raises(UnsupportedSampler, match="DDIMScheduler is not linear with clip_sample"):
        compile_plan(scheduler, 4)


def test_the_first_noise_depends_on_the_seed_alone():
    plan = plan_for(BASE, "euler", 4)
    a, b = (initial_noise(plan, (4, 8, 8), torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, initial_noise(plan, (4, 8, 8), torch.Generator().manual_seed(8)))
