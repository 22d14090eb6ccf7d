"""Samplers, compiled: a diffusers scheduler that is linear in its inputs becomes a table of weights.

The scheduler's own `step` runs once per (config, steps), on basis vectors instead of pictures. What it returns reads
directly as the coefficients of the next latents:

    x[i+1] = Σ a_j · x[i−j] + Σ b_j · out[i−j] + d · noise,   j = 0 … 3

so the engine needs one weighted sum for any mix of samplers, and a new sampler is a name and a class, no mathematics.
"""

import inspect
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from models.errors import UnsupportedSampler

HISTORY = 4  # latents and outputs that a step may look back on, its own included
TERMS = 2 * HISTORY + 1  # x[i] … x[i−3], out[i] … out[i−3], noise
TOLERANCE = 1e-5  # a coefficient beyond the history, relative to the greatest: the plan would not be exact

# `clip_sample` and `thresholding` are not linear, and no pipeline for latents wants them.
LINEAR = {"clip_sample": False, "thresholding": False}
CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, LINEAR),
    "euler": (EulerDiscreteScheduler, {}),
    "dpmpp_2m": (
        DPMSolverMultistepScheduler,
        LINEAR | {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"},
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class SamplerPlan:
    """All that the engine needs of a sampler at one step count. `n` counts model calls."""

    timesteps: Float[Tensor, " n"]
    input_scale: Float[Tensor, " n"]  # the model sees x · input_scale
    weights: Float[Tensor, "n terms"]  # float32, rows as in the module's sum
    clean: Float[Tensor, "n 2"]  # x · clean[0] + out · clean[1] estimates the finished latents, for previews
    draws_noise: tuple[bool, ...]
    init_noise_sigma: float

    def __len__(self) -> int:
        return len(self.timesteps)


def new_scheduler(config: Mapping[str, Any], sampler: str) -> Any:
    """Return the diffusers scheduler that `sampler` names, made from a checkpoint's scheduler config."""
    scheduler_class, overrides = CLASSES[sampler]
    return scheduler_class.from_config(dict(config), **overrides)


def plan_for(config: Mapping[str, Any], sampler: str, steps: int) -> SamplerPlan:
    """Return the plan of `sampler` at `steps`, compiled at the first call (3–30 ms: not on the engine's thread).

    Raises:
        UnsupportedSampler: the scheduler is not linear, looks back too far, or is not finite at this step count.
    """
    key = tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in config.items()))
    return _cached_plan(key, sampler, steps)


@cache
def _cached_plan(config: tuple[tuple[str, Any], ...], sampler: str, steps: int) -> SamplerPlan:
    return compile_plan(new_scheduler(dict(config), sampler), steps)


def compile_plan(scheduler: Any, steps: int) -> SamplerPlan:
    """Run `scheduler` on basis vectors and read its weights off.

    Step i gets basis vectors of its own for its latents and for the model's output, so that the result's coordinates
    are the coefficients, with nothing to solve for.
    """
    _refuse_if_not_linear(scheduler)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    calls = len(timesteps)
    basis = torch.eye(2 * calls, dtype=torch.float64).view(2 * calls, 1, 2 * calls, 1, 1)
    weights = torch.zeros(calls, TERMS, dtype=torch.float64)
    scale = torch.ones(calls, dtype=torch.float64)
    draws = []
    for i, timestep in enumerate(timesteps):
        x, out = basis[i], basis[calls + i]
        scale[i] = scheduler.scale_model_input(x, timestep).flatten()[i].item()
        result, noise_weight, drew = _step(scheduler, out, timestep, x)
        back = min(i + 1, HISTORY)
        weights[i, :back] = result[:calls][i - back + 1 : i + 1].flip(0)
        weights[i, HISTORY : HISTORY + back] = result[calls:][i - back + 1 : i + 1].flip(0)
        weights[i, -1] = noise_weight
        draws.append(drew)
        _refuse_if_inexact(scheduler, steps, i, result, weights[i])
    return SamplerPlan(
        timesteps=timesteps.float(),
        input_scale=scale.float(),
        weights=weights.float(),
        clean=_clean_estimate(scheduler, timesteps, scale).float(),
        draws_noise=tuple(draws),
        init_noise_sigma=float(scheduler.init_noise_sigma),
    )


def _step(scheduler: Any, out: Tensor, timestep: Tensor, x: Tensor) -> tuple[Tensor, float, bool]:
    """One step on basis vectors: coordinates without noise, the weight of the noise, whether noise was drawn.

    A stochastic scheduler is stepped twice from the same state with two known noises: their difference shows the
    weight, which then comes off the coordinates.
    """
    takes_generator = "generator" in scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]
    if not takes_generator:
        return scheduler.step(out, timestep, x, return_dict=False)[0].double().flatten(), 0.0, False
    twin = deepcopy(scheduler)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    first, second = (
        s.step(out, timestep, x, generator=g, return_dict=False)[0].double().flatten()
        for s, g in zip((scheduler, twin), generators, strict=True)
    )
    if torch.equal(generators[0].get_state(), torch.Generator().manual_seed(0).get_state()):
        return first, 0.0, False
    noises = [
        randn_tensor(x.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype).flatten()
        for seed in (0, 1)
    ]
    gap = noises[0] - noises[1]
    weight = float((first - second) @ gap / (gap @ gap))
    return first - weight * noises[0], weight, True


def _refuse_if_not_linear(scheduler: Any) -> None:
    """Raise where an option of the scheduler's own (not one it merely carries along) bends what it is given."""
    own = inspect.signature(type(scheduler).__init__).parameters
    for option in LINEAR:
        if option in own and scheduler.config[option]:
            raise UnsupportedSampler(f"{type(scheduler).__name__} is not linear with {option}.")


def _refuse_if_inexact(scheduler: Any, steps: int, i: int, result: Tensor, weights: Tensor) -> None:
    """Raise where step i has a coefficient that is not finite, or one outside the history."""
    name = type(scheduler).__name__
    if not torch.isfinite(weights).all():
        raise UnsupportedSampler(f"{name} is not finite at {steps} steps (model call {i + 1}).")
    missed = result.square().sum() - weights[:-1].square().sum()
    if missed.clamp(min=0).sqrt() > TOLERANCE * result.abs().max():
        raise UnsupportedSampler(f"{name} looks back more than {HISTORY} model calls at {steps} steps.")


def _clean_estimate(scheduler: Any, timesteps: Tensor, scale: Tensor) -> Tensor:
    """Weights [n, 2] of x and out in the model's own guess of the finished latents (for previews only)."""
    alpha = scheduler.alphas_cumprod.double()[timesteps.long()].sqrt().clamp(min=1e-3)
    sigma = (1 - alpha.square()).clamp(min=0).sqrt()
    match scheduler.config.prediction_type:
        case "v_prediction":
            return torch.stack([alpha * scale, -sigma], 1)
        case "epsilon":
            return torch.stack([scale / alpha, -sigma / alpha], 1)
        case "sample":
            return torch.stack([torch.zeros_like(alpha), torch.ones_like(alpha)], 1)
        case other:
            raise UnsupportedSampler(f"prediction type {other} is not supported.")


def initial_noise(plan: SamplerPlan, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Return the latents a picture starts from, float32 [C, h, w]: the draws of the diffusers pipeline."""
    noise = randn_tensor((1, *shape), generator=generator, dtype=torch.float32)[0]
    return noise * plan.init_noise_sigma if not math.isclose(plan.init_noise_sigma, 1.0) else noise
