"""`asyncio.to_thread` on always the same thread.

Calls keep their order. And PyTorch and the allocator keep memory for each thread that computes: on a pool, the process
of a VAE grew by 5 MiB every 1,000 pictures; on one thread it does not grow.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class SerialExecutor:
    """A thread that works for an event loop, one call after another."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns, or raise what it raises. It sees the caller's context: whose request it is."""
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: context.run(work, *args, **kwargs)
        )
