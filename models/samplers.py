"""The samplers of a checkpoint: its own scheduler, and those that a request can name.

A sampler is a diffusers scheduler class with some options, made from the config of the checkpoint's scheduler, as
`scheduler_class.from_config(pipeline.scheduler.config)` is. It is compiled to a plan (`models.sampling`); one that no
plan can express is not offered.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    SchedulerMixin,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import DummyObject
from torch import Tensor

from models.checkpoint.folder import SCHEDULER
from models.errors import UnsupportedSampler, UnusableCheckpoint
from models.families.base import Family
from models.parameters import OWN_SAMPLER as OWN
from models.sampling import HISTORY, NOT_LINEAR, TERMS, SamplerPlan, compile_plan
from models.spec import ImageSpec

USUAL = "dpmpp_2m"
PROBED_STEPS = 5
MAX_PLANS = 1000  # kept: 5 kB a plan of 100 steps
COMPARED_STEPS = (PROBED_STEPS, 20)  # some options matter from 15 steps on
NO_OTHER = "No other sampler fits its config."
NO_OPTIONS: Mapping[str, Any] = {}
SAME = 1e-5  # relative difference of two loops that are the same sampler

BETAS = ("beta_start", "beta_end", "beta_schedule")
LINEAR: dict[str, Any] = dict.fromkeys(NOT_LINEAR, False)  # no pipeline for latents wants them
SIGMAS: dict[str, Any] = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
KARRAS = SIGMAS | {"use_karras_sigmas": True}
DPMPP = LINEAR | {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, LINEAR),
    "ddpm": (DDPMScheduler, LINEAR),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_karras": (EulerDiscreteScheduler, KARRAS),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, LINEAR),
    "dpmpp_2m": (DPMSolverMultistepScheduler, DPMPP),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, DPMPP | KARRAS),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, DPMPP | {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_singlestep": (DPMSolverSinglestepScheduler, DPMPP),
    "unipc": (UniPCMultistepScheduler, LINEAR),
    "deis": (DEISMultistepScheduler, LINEAR | {"algorithm_type": "deis"}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "kdpm2": (KDPM2DiscreteScheduler, {}),
    "kdpm2_ancestral": (KDPM2AncestralDiscreteScheduler, {}),
    "lcm": (LCMScheduler, LINEAR),
    "tcd": (TCDScheduler, LINEAR),
}


def new_scheduler(config: Mapping[str, Any], sampler: str) -> Any:
    """Return the diffusers scheduler that `sampler` names, made from the config of a checkpoint's scheduler.

    Raises:
        UnsupportedSampler: it is the checkpoint's own, and diffusers has no scheduler of that class; or it is another
            one, and the config says nothing of the betas that the model was trained with.
    """
    if sampler == OWN:
        return _own_class(config["_class_name"]).from_config(dict(config))
    if not all(entry in config for entry in BETAS) and config.get("trained_betas") is None:
        raise UnsupportedSampler(f"The scheduler's config has no {' and '.join(BETAS)}.")
    scheduler_class, options = CLASSES[sampler]
    return scheduler_class.from_config(dict(config), **options)


def _own_class(name: str) -> Any:
    found = getattr(diffusers, name, None)
    if isinstance(found, DummyObject):
        missing = ", ".join(library for library in vars(found)["_backends"] if library != "torch")
        raise UnsupportedSampler(f"it needs {missing}, which is not installed.")
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        raise UnsupportedSampler(f"diffusers has no scheduler {name}.")
    return found


def plan_for(
    config: Mapping[str, Any],
    sampler: str,
    steps: int,
    timestep_options: Mapping[str, Any] = NO_OPTIONS,
    begin: int = 0,
) -> SamplerPlan:
    """Return the plan of `sampler` at `steps`, compiled at the first call (3–30 ms: not on the engine's thread).

    The first `begin` steps are left out.

    `timestep_options` are those of the scheduler's `set_timesteps`, JSON values: see `Family.timestep_options`.

    Raises:
        UnsupportedSampler: the scheduler refuses its config or this step count, is not linear, looks back too far, or
            is not finite.
    """
    texts = (json.dumps(dict(each), sort_keys=True) for each in (config, timestep_options))
    return _cached_plan(*texts, sampler, steps, begin)


@lru_cache(MAX_PLANS)
def _cached_plan(config: str, timestep_options: str, sampler: str, steps: int, begin: int) -> SamplerPlan:
    try:
        return compile_plan(new_scheduler(json.loads(config), sampler), steps, json.loads(timestep_options), begin)
    except UnsupportedSampler:
        raise
    except Exception as error:  # schedulers refuse configs and step counts by errors of any kind
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnsupportedSampler(f"{sampler} at {steps} steps: {reason.strip().rstrip('.')}.") from error


@dataclass(frozen=True, slots=True)
class Samplers:
    """Which samplers a checkpoint has, and which one requests get that name none."""

    default: str
    names: tuple[str, ...]
    min_steps: Mapping[str, int]  # sampler -> steps below which an image is not finished, if more than 1
    refused: Mapping[str, str]  # sampler -> why it is not offered


def choose_samplers(folder: Path, family: Family, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Samplers:
    """Compile the family's samplers with the config of the checkpoint's scheduler, and find which one is its own.

    The checkpoint's own scheduler is the default, under the name that gives the same plan, else as `default`, unless
    `defaults` names another one.

    Raises:
        UnusableCheckpoint: the scheduler cannot be served, and `defaults` names no other.
    """
    own = _OwnScheduler(family, config, defaults["width"], defaults["height"])
    plans, refused = _compile_all(own)
    same = next((name for name in plans if name != OWN and OWN in plans and _is_own(own, name)), None)
    if same is not None:
        del plans[OWN]
    elif OWN in plans and len(plans[OWN]) != PROBED_STEPS:
        del plans[OWN]
        refused[OWN] = f"{config['_class_name']} calls the model more than once a step."
    named, steps = defaults.get("sampler", OWN), defaults["num_inference_steps"]
    chosen = named if named != OWN else same or OWN
    try:
        if chosen not in plans:
            raise UnsupportedSampler(refused.get(chosen, f"there is no sampler {chosen!r}."))
        own.plan(chosen, steps)
    except UnsupportedSampler as error:
        others = sorted(plans.keys() - {chosen}, key=lambda name: (name != USUAL, name))
        remedy = f"Choose a sampler under `defaults`, for example sampler: {others[0]}." if others else NO_OTHER
        what = config["_class_name"] if chosen in (OWN, same) else chosen
        raise UnusableCheckpoint(f"{folder / SCHEDULER}: {what} cannot be served: {error.message} {remedy}") from error
    return Samplers(chosen, tuple(plans), _min_steps(config, plans, steps), refused)


@dataclass(frozen=True, slots=True)
class _OwnScheduler:
    """A checkpoint's scheduler as its family's pipelines use it, for images of one size."""

    family: Family
    config: Mapping[str, Any]
    width: int
    height: int

    def plan(self, sampler: str, steps: int) -> SamplerPlan:
        """Return the plan of a sampler. Raises UnsupportedSampler."""
        return plan_for(self.config, sampler, steps, self._timestep_options(sampler, steps))

    def started(self, steps: int) -> Any:
        """Return the scheduler itself with its timesteps set, once it has what the pipelines use of it."""
        scheduler = new_scheduler(self.config, OWN)
        for name in self.family.scheduler_needs:
            if not hasattr(scheduler, name):
                raise UnsupportedSampler(f"{self.config['_class_name']} has no {name}, which the pipeline needs.")
        scheduler.set_timesteps(steps, **self._timestep_options(OWN, steps))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return scheduler

    def _timestep_options(self, sampler: str, steps: int) -> Mapping[str, Any]:
        spec = ImageSpec(
            model="",
            prompt="",
            negative_prompt="",
            width=self.width,
            height=self.height,
            num_inference_steps=steps,
            guidance_scale=1.0,
            sampler=sampler,
            seed=0,
            output_format="png",
        )
        return self.family.timestep_options(spec)


def _compile_all(own: _OwnScheduler) -> tuple[dict[str, SamplerPlan], dict[str, str]]:
    """Return a plan of each sampler, and of those that have none the reasons."""
    plans: dict[str, SamplerPlan] = {}
    refused: dict[str, str] = {}
    for name in own.family.samplers:
        try:
            plan = own.plan(name, PROBED_STEPS)
            if name == OWN and not _is_followed(own.started(PROBED_STEPS), plan):
                raise UnsupportedSampler(f"{own.config['_class_name']} is not linear.")
            plans[name] = plan
        except UnsupportedSampler as error:
            refused[name] = error.message
    return plans, refused


def _is_followed(scheduler: Any, plan: SamplerPlan) -> bool:
    """Whether a plan gives the same latents as the scheduler's loop, for outputs that are mere noise."""
    shape, calls = (1, 4, 8, 8), len(plan)
    start, outputs = torch.randn(shape, generator=_seeded(0)), torch.randn(calls, *shape, generator=_seeded(1)) * 3
    takes = inspect.signature(scheduler.step).parameters
    options = {name: value for name, value in {"generator": _seeded(2), "eta": 0.0}.items() if name in takes}
    theirs = start * getattr(scheduler, "init_noise_sigma", 1.0)
    for output, timestep in zip(outputs, scheduler.timesteps, strict=True):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(theirs, timestep)  # some keep their place by it
        theirs = scheduler.step(output, timestep, theirs, return_dict=False, **options)[0]
    ours, history, noises = start * plan.init_noise_sigma, torch.zeros(TERMS, *shape), _seeded(2)
    for i, weights in enumerate(plan.weights):
        history[i % HISTORY], history[HISTORY + i % HISTORY] = ours, outputs[i]
        if plan.draws_noise[i]:
            history[-1] = torch.randn(shape, generator=noises)
        ours = torch.einsum("k,k...->...", weights, history)
    return bool((ours - theirs).norm() <= 10 * SAME * theirs.norm())


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _is_own(own: _OwnScheduler, name: str) -> bool:
    """Whether a sampler gives the images of the checkpoint's own scheduler, as far as either gives any."""
    return all(_agree(own, name, steps) for steps in COMPARED_STEPS)


def _agree(own: _OwnScheduler, name: str, steps: int) -> bool:
    try:
        one, other = own.plan(name, steps), own.plan(OWN, steps)
    except UnsupportedSampler:
        return True  # the default is tried at its own steps; here there is nothing to compare
    numbers = zip(_numbers(one), _numbers(other), strict=True)
    return one.draws_noise == other.draws_noise and all(_close(a, b) for a, b in numbers)


def _numbers(plan: SamplerPlan) -> tuple[Tensor, ...]:
    scalars = (plan.timesteps, plan.input_scale, (plan.init_noise_sigma,))
    return *(torch.tensor(each, dtype=torch.float64) for each in scalars), plan.weights.double()


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=SAME, atol=SAME)


def _min_steps(config: Mapping[str, Any], names: Mapping[str, Any], usual_steps: int) -> dict[str, int]:
    """Return the least steps of the samplers whose images fewer steps leave unfinished.

    None of those that a checkpoint does with by default: then it was distilled for few steps.
    """
    least = {name: _least_steps(config, name) for name in names}
    return {name: steps for name, steps in least.items() if 1 < steps <= usual_steps}


def _least_steps(config: Mapping[str, Any], sampler: str) -> int:
    """Return the steps below which a sampler ends further from its own 50 steps than one single step does.

    Measured with the model that ships here, at zero SNR and without (benchmarks/few_steps.py); DPM2 a, which converges
    to no image, is taken for DPM2.
    """
    scheduler_class, options = CLASSES[sampler] if sampler != OWN else (_own_class(config["_class_name"]), {})
    settings = {**config, **options}
    if scheduler_class in (HeunDiscreteScheduler, KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler):
        return 3
    if scheduler_class is PNDMScheduler:
        return 7
    if scheduler_class is DPMSolverMultistepScheduler and settings.get("use_karras_sigmas"):
        return 10 if settings.get("rescale_betas_zero_snr") else 5
    return 1
