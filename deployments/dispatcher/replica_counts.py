"""How many replicas each stage of each model has, from Serve's controller, which may not answer."""

import asyncio
import time
from collections.abc import Callable, Mapping

from deployments.dispatcher.queue_stats import Replicas

COUNT_INTERVAL_S = 2.0
COUNT_TIMEOUT_S = 2.0  # for a controller that restarts; until it answers, the last counts hold


class ReplicaCounts:
    """The newest counts, taken on another thread, one at a time."""

    def __init__(self, count: Callable[[], Mapping[str, Mapping[str, Replicas]]]) -> None:
        self._count = count
        self._counting: asyncio.Task[None] | None = None
        self._counted_at = 0.0
        self._replicas: Mapping[str, Mapping[str, Replicas]] = {}

    async def replicas(self) -> Mapping[str, Mapping[str, Replicas]]:
        """Return them by model and stage, a few seconds old. Raises what counting raises."""
        if time.monotonic() - self._counted_at > COUNT_INTERVAL_S:
            if self._counting is None or self._counting.done():
                self._counting = asyncio.create_task(self._refresh())
            done, _ = await asyncio.wait([self._counting], timeout=COUNT_TIMEOUT_S)
            for counted in done:
                counted.result()
        return self._replicas

    async def _refresh(self) -> None:
        self._replicas = await asyncio.to_thread(self._count)
        self._counted_at = time.monotonic()
