"""Work off the event loop that stays on one thread."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from deployments.stages.executor import SerialExecutor

whose: ContextVar[str] = ContextVar("whose", default="nobody's")


async def test_all_work_is_done_on_one_thread_that_is_not_the_event_loops() -> None:
    thread = SerialExecutor("worker")
    seen = set(await asyncio.gather(*(thread.run(threading.get_ident) for _ in range(20))))
    assert len(seen) == 1
    assert threading.get_ident() not in seen


async def test_the_work_knows_whose_request_it_is_done_for() -> None:
    thread = SerialExecutor("worker")

    async def request(name: str) -> str:
        whose.set(name)
        return await thread.run(whose.get)

    assert await asyncio.gather(request("ada's"), request("bob's")) == ["ada's", "bob's"]


async def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await SerialExecutor("worker").run(lambda: 1 / 0)
