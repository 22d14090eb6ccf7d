"""How many replicas each stage of each model has. Serve's controller knows, and may not answer."""

import asyncio
import time
from collections.abc import Callable, Mapping

from deployments.dispatcher.overview import Replicas

INTERVAL_S = 2.0
PATIENCE_S = 2.0  # with a controller that is on its way back; what was known before holds meanwhile


class Census:
    """Counts on another thread, one count at a time."""

    def __init__(self, count: Callable[[], Mapping[str, Mapping[str, Replicas]]]) -> None:
        self._count = count
        self._counting: asyncio.Task[None] | None = None
        self._counted_at = 0.0
        self._replicas: Mapping[str, Mapping[str, Replicas]] = {}

    async def replicas(self) -> Mapping[str, Mapping[str, Replicas]]:
        """Return them by model and stage, as of the last few seconds where the controller answers.

        Raises what counting raises.
        """
        if time.monotonic() - self._counted_at > INTERVAL_S:
            if self._counting is None or self._counting.done():
                self._counting = asyncio.create_task(self._take())
            done, _ = await asyncio.wait([self._counting], timeout=PATIENCE_S)
            for counted in done:
                counted.result()
        return self._replicas

    async def _take(self) -> None:
        self._replicas = await asyncio.to_thread(self._count)
        self._counted_at = time.monotonic()
