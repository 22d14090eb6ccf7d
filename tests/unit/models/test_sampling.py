"""A sampler plan is its diffusers scheduler, and says so where it cannot be."""

import inspect
import math
from itertools import product

import pytest
import torch
from diffusers import DDIMScheduler

from models.errors import UnsupportedSampler
from models.parameters import MAX_STEPS_BY_SAMPLER, SAMPLERS, model_calls
from models.samplers import CLASSES, OWN, new_scheduler, plan_for
from models.sampling import HISTORY, TERMS, compile_plan, initial_noise

BASE = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
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
WITHIN = 1e-4  # relative L2; a σ of 4096 at zero SNR costs the scheduler's own float32 up to 7e-5
STEPS = (2, 5, 20)  # each config and sampler with one of them every day, in turn, and with all at night
ZERO_SNR = BASE | {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}


def model(x: torch.Tensor, timestep: torch.Tensor | float) -> torch.Tensor:
    """Stands in for the UNet: not linear, and different at each timestep."""
    return torch.tanh(0.7 * x + timestep / 1000) + 0.1 * x


def by_scheduler(config: dict, sampler: str, steps: int, start: torch.Tensor) -> torch.Tensor:
    scheduler = new_scheduler(config, sampler)
    scheduler.set_timesteps(steps)
    takes = inspect.signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(5), "eta": 0.0}
    options = {name: value for name, value in options.items() if name in takes}
    x = start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, return_dict=False, **options)[0]
    return x


def by_plan(config: dict, sampler: str, steps: int, start: torch.Tensor) -> torch.Tensor:
    plan = plan_for(config, sampler, steps)
    generator = torch.Generator().manual_seed(5)
    x = start * plan.init_noise_sigma
    terms = torch.zeros(TERMS, *start.shape)
    for i, weights in enumerate(plan.weights):
        terms[i % HISTORY] = x
        terms[HISTORY + i % HISTORY] = model(x * plan.input_scale[i], plan.timesteps[i])
        if plan.draws_noise[i]:
            terms[-1] = torch.randn(start.shape, generator=generator)
        x = torch.einsum("k,k...->...", weights, terms)
    return x


@pytest.mark.parametrize(
    ("config", "sampler", "steps"),
    [
        cell if k % len(STEPS) == k // len(STEPS) % len(STEPS) else pytest.param(*cell, marks=pytest.mark.nightly)
        for k, cell in enumerate(product([*CONFIGS, ZERO_SNR], SAMPLERS, STEPS))
    ],
)
def test_a_plan_gives_what_the_schedulers_own_loop_gives(config, sampler, steps):
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = by_scheduler(config, sampler, steps, start)
    ours = by_plan(config, sampler, steps, start)
    off = by_plan(config, sampler, steps + 1, start)
    assert (ours - theirs).norm() / theirs.norm() < WITHIN
    assert (off - theirs).norm() / theirs.norm() > WITHIN


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_plan_is_as_long_as_the_model_calls_that_are_announced(sampler):
    for steps in (1, 2, 3, 8, MAX_STEPS_BY_SAMPLER.get(sampler, 150)):
        plan = plan_for(BASE, sampler, steps)
        assert len(plan) == model_calls(sampler, steps)
        assert plan.weights.isfinite().all()


def test_a_sampler_that_is_deterministic_draws_no_noise():
    noisy = {sampler for sampler in SAMPLERS if any(plan_for(BASE, sampler, 5).draws_noise)}
    assert noisy == {"ddpm", "euler_ancestral", "dpmpp_2m_sde", "kdpm2_ancestral", "lcm"}


def test_a_first_timestep_that_comes_twice_loses_no_step():
    """Karras' σ crowd together at zero SNR; diffusers' own loop then starts at the second and runs off the end."""
    plan = plan_for(ZERO_SNR, "dpmpp_2m_karras", 50)
    assert plan.timesteps[0] == plan.timesteps[1]
    assert len(plan) == 50


def test_a_scheduler_that_is_not_finite_is_refused():
    class Divides(DDIMScheduler):
        def step(self, model_output, timestep, sample, return_dict=True):
            return (sample / (int(timestep) - 1),)

    with pytest.raises(UnsupportedSampler, match=r"Divides is not finite at 4 steps \(model call 4\)"):
        compile_plan(Divides.from_config(BASE), 4, {})


def test_a_scheduler_that_looks_back_too_far_is_refused():
    class Hoarder(DDIMScheduler):
        """Forgets nothing: at every fifth call all outputs come back."""

        def set_timesteps(self, num_inference_steps, device=None):
            super().set_timesteps(num_inference_steps, device)
            self.seen = []

        def step(self, model_output, timestep, sample, return_dict=True):
            self.seen.append(model_output * (1 + 0.1 * len(self.seen)))
            return (sum(self.seen),) if len(self.seen) % 5 == 0 else (0.9 * sample,)

    with pytest.raises(UnsupportedSampler, match="looks back more than 4 model calls at 6 steps"):
        compile_plan(Hoarder.from_config(BASE), 6, {})


def test_every_sampler_of_the_schema_has_a_class():
    assert set(SAMPLERS) == {OWN, *CLASSES}


def test_a_stochastic_scheduler_has_a_weight_for_its_noise():
    """DDIM with an eta of 1 draws noise of weight σ; its other coefficients are what remains."""

    class Noisy(DDIMScheduler):
        def step(self, model_output, timestep, sample, generator=None, return_dict=True):
            return super().step(model_output, timestep, sample, eta=1.0, generator=generator, return_dict=return_dict)

    scheduler = Noisy.from_config(BASE)
    plan = compile_plan(scheduler, 5, {})
    assert all(plan.draws_noise[:-1])
    for i, t in enumerate(scheduler.timesteps):
        variance = scheduler._get_variance(int(t), int(t) - 200)
        assert math.isclose(plan.weights[i, -1], variance.sqrt(), rel_tol=1e-4, abs_tol=1e-6)


def test_a_scheduler_that_clips_is_refused():
    scheduler = DDIMScheduler.from_config(BASE | {"clip_sample": True, "clip_sample_range": 0.01})
    with pytest.raises(UnsupportedSampler, match="DDIMScheduler is not linear with clip_sample"):
        compile_plan(scheduler, 4, {})


def test_the_first_noise_depends_on_the_seed_alone():
    plan = plan_for(BASE, "euler", 4)
    a, b = (initial_noise(plan, (4, 8, 8), torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, initial_noise(plan, (4, 8, 8), torch.Generator().manual_seed(8)))
