"""Deletes what is too old or too much: results, inputs, and the files of attempts that failed."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from deployments.config import QueueConfig
from deployments.dispatcher.clock import SteadyClock
from deployments.dispatcher.durable_writer import DurableWriter
from deployments.dispatcher.inputs import Inputs
from deployments.errors import Superseded
from deployments.image_store import ImageStore

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

SWEEP_INTERVAL_S = 60.0
ORPHAN_AGE_S = 3600.0  # an image that does not belong to its job by then never will
ORPHAN_BATCH = 500  # names that are compared at a time
GONE_FOR_S = 30 * 86400.0  # time for which a job whose result has expired answers 410; then 404


class Sweeper:
    """Sweeps for as long as its Dispatcher is in charge."""

    def __init__(
        self,
        writer: DurableWriter,
        images: ImageStore,
        inputs: Inputs,
        config: QueueConfig,
        clock: SteadyClock,
        forget: Callable[[Iterable[str]], None],
    ) -> None:
        self._writer = writer
        self._images = images
        self._inputs = inputs
        self._config = config
        self._clock = clock
        self._forget = forget  # jobs that the queue knows still

    async def keep_sweeping(self) -> None:
        """Forget results and inputs that are too old or too many, and now and then orphans."""
        orphans_due = time.monotonic()  # the first time, at once
        while not self._writer.superseded:
            try:
                await self._sweep_results()
                await self._inputs.expire(self._clock.now() if self._clock.settled else 0.0)
                if time.monotonic() >= orphans_due:
                    orphans_due = time.monotonic() + ORPHAN_AGE_S
                    await self._sweep_orphans()
            except Superseded:
                break
            except Exception:  # each filesystem has its own
                logger.exception("old results and inputs could not be swept")
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def _sweep_results(self) -> None:
        store = self._writer.store
        # What expires is gone for good: not by a clock that may be wrong. Too many bytes go at any time.
        before = self._clock.now() - self._config.result_ttl_s if self._clock.settled else 0.0
        expired = await self._writer.call(store.expire, before, self._config.max_result_bytes)
        self._forget(expired)
        await asyncio.to_thread(self._images.remove, [name for names in expired.values() for name in names])
        await self._writer.call(store.forget, before - GONE_FOR_S)

    async def _sweep_orphans(self) -> None:
        now = min(time.time(), self._clock.now())  # files have the system's time, by a clock that may have jumped since
        await self._inputs.sweep_orphans(now - ORPHAN_AGE_S)
        names = await asyncio.to_thread(self._images.names, now - ORPHAN_AGE_S)
        for start in range(0, len(names), ORPHAN_BATCH):  # other writes come in between
            orphans = await self._writer.call(self._writer.store.orphans, names[start : start + ORPHAN_BATCH])
            await asyncio.to_thread(self._images.remove, orphans)
