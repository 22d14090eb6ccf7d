"""How a wrong key of a config file is worded: its path, its value and its bound."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from deployments.stages import VAE
from models.validation import first_problem

RENAMED = {  # in files for earlier versions -> its name now
    "vae_decoder": VAE.key,
    "VaeDecoder": VAE.deployment,
    "deployments.tracing:otlp": "deployments.serve.tracing:otlp",
}


def errors_of(kind: type[BaseModel], given: Any) -> Sequence[Any]:
    """Return pydantic's errors of a value."""
    try:
        kind.model_validate(given)
    except ValidationError as error:
        return error.errors()
    return ()


def lines_of(kind: type[BaseModel], given: Any, prefix: str) -> list[str]:
    """Return a line for each error of a value; `prefix` is the path to it, with its dot."""
    return [line_of(prefix, error, kind) for error in errors_of(kind, given)]


def line_of(prefix: str, error: Any, kind: Any = None) -> str:
    """Return one of pydantic's errors as a line; of a value of a `kind`, with the field that an unknown key is near."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden" and error["loc"][-1] in RENAMED:
        return f"{prefix}{key} is called {RENAMED[error['loc'][-1]]} now"
    problem = first_problem([error])[1]
    if error["type"] == "extra_forbidden" and (near := _near(kind, error["loc"])):
        problem = f"{problem.removesuffix('.')}; did you mean {near}?"
    return prefix + problem if key else prefix.removesuffix(".") + problem.removeprefix("body")  # all of the args


def _near(kind: Any, location: Sequence[Any]) -> str | None:
    """Return the field of a model, or of one in it, that the last part of a location is nearly called."""
    for part in location[:-1]:
        fields = getattr(kind, "model_fields", {})
        kind = fields[part].annotation if part in fields else None
    return next(iter(get_close_matches(str(location[-1]), getattr(kind, "model_fields", {}), n=1)), None)
