"""Whether another replica still lives, asked of Ray and not of a clock: one that is busy is not dead."""

import asyncio
import logging
from typing import Any

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError
from ray.serve._private.constants import SERVE_NAMESPACE  # not that of the job that deployed, which may be any

ASK_INTERVAL_S = 1.0

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


def own_name() -> str:
    """Return the name by which other replicas know the one that calls."""
    name = ray.get_runtime_context().get_actor_name()
    assert name  # Serve names every replica
    return name


async def until_dead(name: str) -> None:
    """Return when the replica of this name has died."""
    replica: Any = None
    while True:
        try:
            replica = replica or await asyncio.to_thread(ray.get_actor, name, SERVE_NAMESPACE)
            await replica.__ray_ready__.remote()
        except (ValueError, ActorDiedError, OutOfMemoryError):  # ValueError: nobody has the name any more
            return
        except RayError as error:
            logger.warning("%s does not answer: %r", name, error)
        await asyncio.sleep(ASK_INTERVAL_S)
