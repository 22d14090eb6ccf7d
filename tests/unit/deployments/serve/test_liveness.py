"""Whether another replica still lives, without Ray."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, OutOfMemoryError

from deployments.serve import liveness


@pytest.mark.parametrize(
    "death", [ActorDiedError(), OutOfMemoryError("killed")], ids=lambda error: type(error).__name__
)
async def test_only_a_death_ends_the_wait_for_it(death: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, ActorUnavailableError("busy", None), None, death])
    asked = iter([GetTimeoutError("the head is away"), None])

    async def answer() -> None:
        if (error := next(answers)) is not None:
            raise error

    def get_actor(name: str, namespace: str) -> Any:
        if (error := next(asked)) is not None:
            raise error
        return SimpleNamespace(__ray_ready__=SimpleNamespace(remote=answer))

    monkeypatch.setattr(liveness, "ASK_INTERVAL_S", 0)
    monkeypatch.setattr(liveness.ray, "get_actor", get_actor)
    async with asyncio.timeout(15):
        await liveness.until_dead("Dispatcher")
    assert (list(asked), list(answers)) == ([], [])


async def test_a_name_that_nobody_has_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_actor(name: str, namespace: str) -> Any:
        raise ValueError(f"no actor {name}")

    monkeypatch.setattr(liveness.ray, "get_actor", get_actor)
    async with asyncio.timeout(15):
        await liveness.until_dead("Dispatcher")
