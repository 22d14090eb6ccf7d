"""How a wrong key of a config file is worded: its path, its value and its bound."""

from collections.abc import Sequence
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
    return [line_of(prefix, error) for error in errors_of(kind, given)]


def line_of(prefix: str, error: Any) -> str:
    """Return one of pydantic's errors as a line."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden" and error["loc"][-1] in RENAMED:
        return f"{prefix}{key} is called {RENAMED[error['loc'][-1]]} now"
    problem = first_problem([error])[1]
    return prefix + problem if key else prefix.removesuffix(".") + problem.removeprefix("body")  # all of the args
