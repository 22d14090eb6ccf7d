"""A checkpoint's card as far as its configs alone decide it: read in milliseconds. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.checkpoint.folder import pipeline_class, read_scheduler
from models.checkpoint.settings import read_settings
from models.families.base import Facts
from models.families.registry import PIPELINES
from models.model_card import ModelCard
from models.parameters import OWN_SAMPLER

FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")  # of models that were distilled for few steps
TRAILING_SCHEDULERS = ("DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
FEW_STEPS = {"num_inference_steps": 4, "guidance_scale": 1.0}
MEMBER_DEFAULTS = {"init.strength": 0.75, "hires.strength": 0.7}


def read_outline(folder: Path, name: str, operators: Mapping[str, Any] | None = None) -> ModelCard:
    """Return the card of a checked folder, without digest and files, and as if each sampler worked with it.

    Defaults are what its configs say, then what its own `darkroom.json` says, if it has one, then the operator's.

    Raises:
        UnusableCheckpoint: names the file that is missing or broken.
    """
    pipeline = pipeline_class(folder)
    family = PIPELINES[pipeline]
    own = read_settings(folder)
    facts = family.facts(folder, pipeline)
    chosen = own.defaults.model_dump(exclude_unset=True) | dict(operators or {})
    scheduler = read_scheduler(folder)
    return ModelCard(
        id=name,
        family=family.name,
        digest="",
        defaults=_defaults(facts, scheduler) | chosen,
        member_defaults=MEMBER_DEFAULTS,
        bounds=_bounds(facts) | own.bounds,
        size_multiple=own.size_multiple or facts.size_multiple,
        samplers=family.samplers,
        max_tokens=facts.max_tokens,
        text_width=facts.text_width,
        embedding_widths=facts.embedding_widths,
        own_words=facts.own_words,
        embedded_guidance=facts.embedded_guidance,
        requires=facts.requires,
        styles=own.styles,
        notice=own.notice,
        examples=own.examples,
        warnings=tuple(_guesses(scheduler, {**facts.defaults, **chosen})),
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
        "prompt_syntax": "plain",
        "sampler": OWN_SAMPLER,
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
