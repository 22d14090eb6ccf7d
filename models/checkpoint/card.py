"""The card of a checkpoint: what it allows and prefers, once every file is checked and every sampler is compiled."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.checkpoint.assembly import AS_IT_IS, Overrides, guesses
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
from models.checkpoint.outline import read_outline
from models.families.base import Family
from models.families.registry import PIPELINES
from models.model_card import ModelCard
from models.samplers import Samplers, choose_samplers

logger = logging.getLogger(__name__)

NAMED_IGNORED_FILES = 5  # in a warning


def read_card(
    checkpoint: str,
    operators: Mapping[str, Any] | None = None,
    manifest: Path | None = None,
    allowed_roots: Sequence[Path] = (),
    overrides: Overrides = AS_IT_IS,
) -> ModelCard:
    """Return the card of a checkpoint whose every file has been checked.

    Defaults are what its configs say, then what its own `darkroom.json` says, if it has one, then the operator's.
    `manifest` lists the SHA-256 sums that its files must have; without one its own `SHA256SUMS` does, if it has one.
    Links in the folder may lead to `allowed_roots`.

    Raises:
        UnusableCheckpoint: names the file that is missing, broken, unsafe, not as listed or of an unknown family.
    """
    folder = resolve_checkpoint(checkpoint, overrides)
    family = PIPELINES[pipeline_class(folder)]
    check_components(folder)
    sums = file_sums(folder, family.name, allowed_roots)
    check_numbers(folder)
    if manifest := manifest or own_manifest(folder, allowed_roots):
        check_manifest(manifest, folder, sums)
    outline = read_outline(folder, checkpoint_name(checkpoint), operators)
    samplers = choose_samplers(folder, family, read_scheduler(folder), outline.defaults)
    return replace(
        outline,
        digest=digest(sums),
        files=sums,
        defaults={**outline.defaults, "sampler": samplers.default},
        samplers=samplers.names,
        min_steps=samplers.min_steps,
        warnings=_warnings(folder, family, sums, samplers, [*outline.warnings, *guesses(folder, overrides)]),
    )


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
