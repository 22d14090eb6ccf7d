"""Whether another replica still lives, asked of Ray and not of a clock: one that is busy is not dead."""

import asyncio
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

ASK_INTERVAL_S = 0.5


def own_name() -> str:
    """Return the name by which other replicas know the one that calls."""
    name = ray.get_runtime_context().get_actor_name()
    assert name is not None  # Serve names every replica
    return name


async def until_dead(name: str) -> None:
    """Return when the replica of this name has died."""
    try:
        replica: Any = ray.get_actor(name, ray.get_runtime_context().namespace)
        while True:
            with suppress(ActorUnavailableError):  # it may come back
                await replica.__ray_ready__.remote()
            await asyncio.sleep(ASK_INTERVAL_S)
    except (ActorDiedError, ValueError):  # ValueError: nobody has the name any more
        return
