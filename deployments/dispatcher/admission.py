"""What a request must keep to before it is let into the line. Pure."""

from collections.abc import Sequence
from hashlib import sha256

from deployments.config import QueueConfig
from deployments.errors import QueueFull
from deployments.schema import GenerationRequest
from models.errors import InvalidRequest
from models.spec import ImageSpec


def check_cost(specs: Sequence[ImageSpec], config: QueueConfig, max_cost_per_day: float | None = None) -> None:
    """Check that a request is not more work than one may ever be.

    Raises:
        InvalidRequest: more than the operator allows, or than its owner's key may ask for in a whole day.
    """
    cost = sum(spec.cost for spec in specs)
    for most, scope in ((config.max_job_cost, "in one request"), (max_cost_per_day, "in a day with this key")):
        if most is not None and cost > most:
            raise InvalidRequest(
                f"num_inference_steps must be less, or the images fewer or smaller: they take {cost:.4g} megapixel "
                f"steps (pixels × steps × rows × images), and {most:g} are allowed {scope}.",
                "num_inference_steps",
            )


def check_backlog(backlog_s: float, config: QueueConfig) -> None:
    """Raise QueueFull where more work is in line than the operator allows."""
    most = config.max_backlog_s
    if most is not None and backlog_s > most:
        message = f"There is work for {backlog_s:.0f} s (at most {most:g}). Nothing was queued."
        raise QueueFull(message, max(1, round(backlog_s - most)))


def deadline_s(request: GenerationRequest, config: QueueConfig) -> float:
    """Return how long a job may take.

    Raises:
        InvalidRequest: longer than the operator allows.
    """
    asked, most = request.deadline_s, config.max_deadline_s
    if asked is not None and asked > most:
        raise InvalidRequest(f"deadline_s must be at most {most:g}, got {asked:g}.", "deadline_s")
    return asked if asked is not None else config.deadline_s


def hash_of(request: GenerationRequest) -> str:
    """Return what two requests must agree in to be the same."""
    return sha256(request.model_dump_json(exclude_unset=True).encode()).hexdigest()
