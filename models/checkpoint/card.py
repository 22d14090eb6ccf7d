"""The card of a checkpoint: what it allows and prefers, once every file is checked and every sampler is compiled."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.checkpoint.files import (
    check_manifest,
    digest,
    file_sums,
    find_weights,
    ignored_files,
    own_manifest,
)
from models.checkpoint.folder import check_components, check_numbers, pipeline_class, read_scheduler, unused_components
from models.checkpoint.location import checkpoint_name, resolve_checkpoint
from models.checkpoint.settings import read_settings
from models.families.base import Facts, Family
from models.families.registry import PIPELINES
from models.samplers import Samplers, choose_samplers
from models.spec import ModelCard

logger = logging.getLogger(__name__)

FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")  # of models that were distilled for few steps
TRAILING_SCHEDULERS = ("DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
FEW_STEPS = {"num_inference_steps": 4, "guidance_scale": 1.0}
NAMED_IGNORED_FILES = 5  # in a warning


def read_card(
    checkpoint: str,
    operators: Mapping[str, Any] | None = None,
    manifest: Path | None = None,
    allowed_roots: Sequence[Path] = (),
) -> ModelCard:
    """Return the card of a checkpoint whose every file has been checked.

    Defaults are what its configs say, then what its own `darkroom.json` says, if it has one, then the operator's.
    `manifest` lists the SHA-256 sums that its files must have; without one its own `SHA256SUMS` does, if it has one.
    Links in the folder may lead to `allowed_roots`.

    Raises:
        UnusableCheckpoint: names the file that is missing, broken, unsafe, not as listed or of an unknown family.
    """
    folder = resolve_checkpoint(checkpoint)
    pipeline = pipeline_class(folder)
    family = PIPELINES[pipeline]
    check_components(folder)
    sums = file_sums(folder, family.name, allowed_roots)
    check_numbers(folder)
    if manifest := manifest or own_manifest(folder, allowed_roots):
        check_manifest(manifest, sums)
    own = read_settings(folder)
    facts = family.facts(folder, pipeline)
    chosen = own.defaults.model_dump(exclude_unset=True) | dict(operators or {})
    scheduler = read_scheduler(folder)
    defaults = _defaults(facts, scheduler) | chosen
    samplers = choose_samplers(folder, family, scheduler, defaults)
    return ModelCard(
        id=checkpoint_name(checkpoint),
        family=family.name,
        digest=digest(sums),
        files=sums,
        defaults=defaults | {"sampler": samplers.default},
        bounds=_bounds(facts) | own.bounds,
        size_multiple=own.size_multiple or facts.size_multiple,
        samplers=samplers.names,
        min_steps=samplers.min_steps,
        max_tokens=facts.max_tokens,
        embedded_guidance=facts.embedded_guidance,
        styles=own.styles,
        notice=own.notice,
        examples=own.examples,
        warnings=_warnings(folder, family, sums, samplers, _guesses(scheduler, {**facts.defaults, **chosen})),
    )


def _defaults(facts: Facts, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request gets that leaves everything open, if the checkpoint has no settings of its own."""
    is_distilled = scheduler["_class_name"] in FEW_STEP_SCHEDULERS or _seems_distilled(scheduler)
    return {
        "negative_prompt": "",
        "width": facts.side,
        "height": facts.side,
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "guidance_rescale": 0.0,
        "clip_skip": 0,
        "output_format": "png",
        **(FEW_STEPS if is_distilled else {}),
        **facts.defaults,
    }


def _seems_distilled(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler's config looks like a Turbo, Lightning or Hyper model's: its timesteps begin with pure noise.

    Models of many steps that were trained at zero SNR have such timesteps too. They predict the velocity.
    """
    return (
        scheduler["_class_name"] in TRAILING_SCHEDULERS
        and scheduler.get("timestep_spacing") == "trailing"
        and scheduler.get("prediction_type", "epsilon") in ("epsilon", "sample")
        and not scheduler.get("rescale_betas_zero_snr")
    )


def _guesses(scheduler: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[str]:
    """Say which defaults follow from a fact that may have another reason, unless others are chosen."""
    guessed = [f"{name} {value:g}" for name, value in FEW_STEPS.items() if name not in chosen]
    if not guessed or not _seems_distilled(scheduler):
        return []
    return [
        f"The scheduler has trailing timesteps, as models of few steps have, so by default: {', '.join(guessed)}. "
        "If this is a model of many steps, set `defaults`."
    ]


def _bounds(facts: Facts) -> dict[str, tuple[int, int]]:
    """Return the bounds that follow from the configs, where they are narrower than a request's."""
    sides = 8 * facts.size_multiple, 2 * facts.side
    without_rescale = {"guidance_rescale": (0, 0)} if facts.embedded_guidance else {}
    return {"width": sides, "height": sides, "clip_skip": (0, facts.max_clip_skip), **without_rescale}


def _warnings(
    folder: Path, family: Family, sums: Mapping[str, str], samplers: Samplers, guesses: Sequence[str]
) -> tuple[str, ...]:
    """Say what of the checkpoint is not used, or not as it says; an operator finds it in the log too."""
    warnings = [*guesses]
    warnings += [f"{name} of model_index.json is not used." for name in unused_components(folder)]
    for name, component in family.components.items():
        variant = find_weights(folder / name, component).variant if component.weights else None
        if variant:
            warnings.append(f"{name}: the weights of variant {variant} are read, as there are no others.")
    if ignored := ignored_files(folder, family.name, sums):
        more = len(ignored) - NAMED_IGNORED_FILES
        shown = ", ".join(ignored[:NAMED_IGNORED_FILES]) + (f" and {more} more" if more > 0 else "")
        warnings.append(f"Files that are not read: {shown}.")
    warnings += [f"sampler {name} is not offered: {reason}" for name, reason in samplers.refused.items()]
    for warning in warnings:
        logger.warning("%s: %s", folder, warning)
    return tuple(warnings)
