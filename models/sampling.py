"""A diffusers scheduler that is linear in its inputs, compiled to a table of weights.

The scheduler's own loop runs once per (config, steps), on basis vectors instead of images. Coordinates then say how
each step's latents follow from what came before, and

    x[i+1] = Σ a_j · x[i−j] + Σ b_j · out[i−j] + d · noise,   j = 0 … 3

is solved for the weights, so the engine needs one weighted sum for any mix of samplers.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from models.errors import UnsupportedSampler

HISTORY = 4  # latents and outputs that a step may look back on, its own included
TERMS = 2 * HISTORY + 1  # of the sum: x[i] and out[i], each in slot i mod HISTORY of its four; noise
TOLERANCE = 1e-5  # what the weights may leave unexplained of a step, relative to it: schedulers compute in float32

NOT_LINEAR = ("clip_sample", "thresholding")  # options of schedulers


@dataclass(frozen=True, slots=True, eq=False)
class SamplerPlan:
    """All that the engine needs of a sampler at one step count. `n` counts model calls."""

    timesteps: tuple[float, ...]
    input_scale: tuple[float, ...]  # the model sees x · input_scale
    weights: Float[Tensor, "n terms"]  # float32, of the terms in their slots
    pred_original_sample: tuple[tuple[float, float], ...]  # x·c[0] + out·c[1], in diffusers' word; empty: no previews
    draws_noise: tuple[bool, ...]
    init_noise_sigma: float
    noised: tuple[tuple[float, float], ...]  # image·c[0] + noise·c[1] is as noisy as x[i], i = 0 … n; empty: unknown

    def __len__(self) -> int:
        return len(self.timesteps)


def compile_plan(scheduler: Any, steps: int, timestep_options: Mapping[str, Any], begin: int = 0) -> SamplerPlan:
    """Run `scheduler` on basis vectors and solve for its weights. `timestep_options` are those of `set_timesteps`.

    The first `begin` steps are left out. What looks back begins anew then, so this is no slice of the whole plan.

    Schedulers of flow matching neither scale the model's input nor the first noise, and have no names for it.

    The vectors are the first latents, then each model call's output, then each call's noise.
    """
    _refuse_if_not_linear(scheduler)
    scheduler.set_timesteps(steps, **timestep_options)
    first = begin * getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)  # else it looks the timestep up, and of two that are equal takes the second
    timesteps = scheduler.timesteps[first:]
    calls = len(timesteps)
    start, *others = torch.eye(1 + 2 * calls, dtype=torch.float64)
    outputs, noises = others[:calls], others[calls:]
    latents = [start]
    weights = torch.zeros(calls, TERMS, dtype=torch.float64)
    scale = torch.ones(calls, dtype=torch.float64)
    draws: list[bool] = []
    noised = [_noised(scheduler, timesteps[0])]
    for i, timestep in enumerate(timesteps):
        x = latents[i]
        if hasattr(scheduler, "scale_model_input"):
            scale[i] = scheduler.scale_model_input(x, timestep).double() @ x / (x @ x)
        stepped, noise_weight, drew = _step(scheduler, outputs[i], timestep, x)
        if not stepped.isfinite().all():
            raise UnsupportedSampler(f"{_name(scheduler)} is not finite at {steps} steps (model call {i + 1}).")
        found = _solve_weights(stepped, latents, outputs[: i + 1])
        if found is None:
            raise UnsupportedSampler(f"{_name(scheduler)} looks back more than {HISTORY} model calls at {steps} steps.")
        weights[i, :-1] = found
        weights[i, -1] = noise_weight
        draws.append(drew)
        latents.append(stepped + noise_weight * noises[i])
        noised.append(_noised(scheduler, timesteps[i + 1]) if i + 1 < calls else (1.0, 0.0))
    return SamplerPlan(
        timesteps=tuple(timesteps.double().tolist()),
        input_scale=tuple(scale.tolist()),
        weights=_by_slot(weights).float(),
        pred_original_sample=_pred_original_sample(scheduler, first, timesteps, scale),
        draws_noise=tuple(draws),
        init_noise_sigma=float(getattr(scheduler, "init_noise_sigma", 1.0)),
        noised=tuple(noised) if hasattr(scheduler, "add_noise") else (),
    )


def _noised(scheduler: Any, timestep: Tensor) -> tuple[float, float]:
    """Return the weights of image and noise in what the scheduler's step at a timestep takes; after some steps, too."""
    if not hasattr(scheduler, "add_noise"):
        return 0.0, 0.0
    image, noise = torch.eye(2, dtype=torch.float64).view(2, 1, 1, 1, 2)
    weights = scheduler.add_noise(image, noise, timestep.view(1)).flatten()
    return float(weights[0]), float(weights[1])


def _by_slot(weights: Tensor) -> Tensor:
    """Reorder the columns from newest first to slots, so that a picture never has to move what it remembers."""
    ages = (torch.arange(len(weights))[:, None] - torch.arange(HISTORY)) % HISTORY  # of what slot s holds at step i
    latents, outputs, noise = weights.split([HISTORY, HISTORY, 1], 1)
    return torch.cat([latents.gather(1, ages), outputs.gather(1, ages), noise], 1)


def _name(scheduler: Any) -> str:
    return type(scheduler).__name__


def _solve_weights(stepped: Tensor, latents: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor | None:
    """Return weights [TERMS − 1] of the newest latents and outputs that give `stepped`; None where they cannot.

    The shortest look-back that explains the step is taken: further back the same vectors can be had in many ways.
    """
    weights = torch.zeros(2, HISTORY, dtype=torch.float64)
    for back in range(1, min(len(latents), HISTORY) + 1):
        columns = torch.stack([*latents[: -back - 1 : -1], *outputs[: -back - 1 : -1]], 1)
        found = torch.linalg.lstsq(columns, stepped[:, None], driver="gelsd").solution[:, 0]
        if (columns @ found - stepped).norm() <= TOLERANCE * stepped.norm():
            weights[:, :back] = found.view(2, back)
            return weights.flatten()
    return None


def _step(scheduler: Any, out: Tensor, timestep: Tensor, x: Tensor) -> tuple[Tensor, float, bool]:
    """One step on vectors, as the pipelines call it: latents without noise, the weight of the noise, was any drawn?

    A stochastic scheduler is stepped twice from the same state with two known noises: their difference shows the
    weight, which then comes off the coordinates.
    """
    takes = inspect.signature(scheduler.step).parameters
    options = {"return_dict": False} | ({"eta": 0.0} if "eta" in takes else {})
    vectors = out.view(1, -1, 1, 1), timestep, x.view(1, -1, 1, 1)
    if "generator" not in takes:
        return scheduler.step(*vectors, **options)[0].double().flatten(), 0.0, False
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    first, second = (
        each.step(*vectors, generator=generator, **options)[0].double().flatten()
        for each, generator in zip((scheduler, deepcopy(scheduler)), generators, strict=True)
    )
    if torch.equal(generators[0].get_state(), torch.Generator().manual_seed(0).get_state()):
        return first, 0.0, False
    fits = [_noise_weight(first - second, dtype) for dtype in (torch.float32, torch.float64)]  # schedulers differ
    error, weight, noise = min(fits, key=itemgetter(0))
    if error > TOLERANCE * first.norm():
        raise UnsupportedSampler(f"{_name(scheduler)} draws noise that is not normal.")
    return first - weight * noise, weight, True


def _noise_weight(difference: Tensor, dtype: torch.dtype) -> tuple[float, float, Tensor]:
    """Explain two steps' difference by noise drawn as `dtype` from seeds 0 and 1: error, weight, the first noise."""
    one, two = (
        torch.randn(len(difference), generator=torch.Generator().manual_seed(seed), dtype=dtype).double()
        for seed in (0, 1)
    )
    apart = one - two
    weight = float(difference @ apart / (apart @ apart))
    return float((difference - weight * apart).norm()), weight, one


def _refuse_if_not_linear(scheduler: Any) -> None:
    """Raise where an option of the scheduler's own (not one it merely carries along) bends what it is given."""
    own = inspect.signature(type(scheduler).__init__).parameters
    for option in NOT_LINEAR:
        if option in own and scheduler.config[option]:
            raise UnsupportedSampler(f"{_name(scheduler)} is not linear with {option}.")


def _pred_original_sample(
    scheduler: Any, first: int, timesteps: Tensor, scale: Tensor
) -> tuple[tuple[float, float], ...]:
    """Weights of x and out in the model's own guess of the finished latents, for previews; none where it is unknown.

    `first` is how many of the scheduler's timesteps come before these.
    """
    sigmas = getattr(scheduler, "sigmas", timesteps)[first : first + len(timesteps)].double()
    if hasattr(scheduler, "precondition_outputs"):  # EDM: Karras et al. 2022 (arXiv:2206.00364), table 1
        guess, one, zero = scheduler.precondition_outputs, torch.ones(()), torch.zeros(())
        return tuple((float(guess(one, zero, s)), float(guess(zero, one, s))) for s in sigmas)
    if _name(scheduler).startswith("FlowMatch"):  # Lipman et al. 2023 (arXiv:2210.02747): out is noise less sample
        return tuple((1.0, -float(sigma)) for sigma in sigmas)
    prediction_type = scheduler.config.get("prediction_type")
    if prediction_type == "flow_prediction":
        return tuple((float(s), -float(sigma)) for s, sigma in zip(scale, sigmas, strict=True))
    if not hasattr(scheduler, "alphas_cumprod"):
        return ()
    alpha = scheduler.alphas_cumprod.double()[timesteps.long()].sqrt().clamp(min=1e-3)
    sigma = (1 - alpha.square()).clamp(min=0).sqrt()
    match prediction_type:
        case "v_prediction":
            weights = alpha * scale, -sigma
        case "epsilon":
            weights = scale / alpha, -sigma / alpha
        case "sample":
            weights = torch.zeros_like(alpha), torch.ones_like(alpha)
        case _:
            return ()
    return tuple(zip(*(weight.tolist() for weight in weights), strict=True))


def initial_noise(plan: SamplerPlan, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Return the latents a picture starts from, float32 [C, h, w]: the draws of the diffusers pipeline."""
    noise = randn_tensor((1, *shape), generator=generator, dtype=torch.float32)[0]
    return noise * plan.init_noise_sigma if not math.isclose(plan.init_noise_sigma, 1.0) else noise
