"""The defaults that a config file or `SET` gives a model, checked against its checkpoint."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from deployments.model_config import ModelConfig
from deployments.request_errors import default_problems, request_error
from models.adapters.embedding_folder import with_embeddings
from models.checkpoint.location import check, checkpoint_name
from models.checkpoint.outline import read_outline
from models.errors import InvalidRequest, UnusableCheckpoint
from models.model_card import ModelCard
from models.parameters import OWN_SAMPLER
from models.validation import field_of

OF_SET = "SET: "  # what a line begins with that is about a default of the command line


def check_model(settings: ModelConfig) -> ModelCard | None:
    """Check a model's files; return what its configs and its embeddings say of it, None for a hub id.

    Raises:
        UnusableCheckpoint: names the file that is at fault.
    """
    folder = check(settings.checkpoint, settings.allowed_roots, settings.overrides)
    if folder is None:
        return None
    card = read_outline(folder, checkpoint_name(settings.checkpoint), settings.defaults.chosen)
    return with_embeddings(card, settings.embeddings_path)


def default_lines(model: str, args: Mapping[str, Any], errors: Sequence[Any], of_set: Collection[str]) -> list[str]:
    """Return a line for each default that cannot be one.

    `errors` are pydantic's of the fields of `defaults`; `of_set` are the fields that the command line sets. The listed
    samplers lack `default`: a request may name it only where no other means the checkpoint's scheduler.
    """
    defaults = args.get("defaults") or {}
    wrong = {error["loc"][1] for error in errors}
    card = _readable_card({**args, "defaults": {name: defaults[name] for name in defaults if name not in wrong}})
    sampler = str(card.defaults["sampler"]) if card else ""
    listed = card and replace(card, samplers=tuple(name for name in card.samplers if name != OWN_SAMPLER))
    found = [request_error({**error, "loc": error["loc"][1:]}, listed, sampler) for error in errors]
    if card and defaults:
        found += [problem for problem in default_problems(card) if problem.param not in wrong]
    return [_line(model, problem, defaults, of_set) for problem in found]


def _readable_card(args: Mapping[str, Any]) -> ModelCard | None:
    """Return what a model's configs say of it; None if it is not on this machine, or something else is wrong."""
    try:
        return check_model(ModelConfig.model_validate(args))
    except (ValidationError, UnusableCheckpoint):
        return None


def _line(model: str, problem: InvalidRequest, defaults: Collection[str], of_set: Collection[str]) -> str:
    field = field_of(problem.param or "")
    if field in of_set:
        return f"{OF_SET}{problem.message} Change it or leave it out."
    remedy = "Change it or leave it out." if field in defaults else "That is the checkpoint's own default: set another."
    return f"{model}.defaults.{problem.message} {remedy}"
