"""What one open page shows: the jobs of its owner, followed until all have ended, one of them on the stage."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator

from deployments.dispatcher.client import DispatcherClient
from deployments.dispatcher.overview import QueueState
from deployments.schema import Job
from models.errors import DarkroomError

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

JOBS = 12  # at most, newest first
PACE_S = 0.25  # between two changes that are shown
QUEUE_EVERY_S = 2.0


class Board:
    """The jobs of one page. Handlers put jobs on it; whoever draws the page iterates over `changes`."""

    def __init__(self, client: DispatcherClient, owner: str) -> None:
        self.owner = owner
        self.shown: Job | None = None  # on the stage
        self.problem: DarkroomError | None = None  # why a job could not be found or followed
        self.said: str | None = None  # by the page, in place of the status, until the job on the stage changes its own
        self.queue: QueueState | None = None
        self._client = client
        self._own: dict[str, Job] = {}
        self._changed = asyncio.Event()
        self._watches: dict[str, asyncio.Task[None]] = {}

    @property
    def own(self) -> list[Job]:
        """The owner's jobs, newest first."""
        return sorted(self._own.values(), key=lambda job: job.timestamps.created, reverse=True)[:JOBS]

    def show(self, job: Job) -> None:
        """Put a job on the stage, and follow it. It may be another's."""
        self.shown, self.problem, self.said = job, None, None
        self._follow(job)

    def say(self, words: str) -> None:
        """Show words, as HTML, in place of the status."""
        self.said = words
        self._changed.set()

    async def changes(self) -> AsyncGenerator[None]:
        """Yield at once, then whenever something has changed, until every job has ended.

        Where nothing is on the stage to begin with, the owner's newest job that has not ended is put there.
        """
        asking = asyncio.create_task(self._ask_queue())
        try:
            await self._recall()
            while True:
                self._changed.clear()
                shown_at = time.monotonic()
                yield
                if not self._watches and not self._changed.is_set():
                    return
                await self._changed.wait()
                await asyncio.sleep(max(0.0, shown_at + PACE_S - time.monotonic()))
        finally:
            for task in (asking, *self._watches.values()):
                task.cancel()

    async def _recall(self) -> None:
        """Find the owner's jobs of earlier."""
        try:
            for job in await self._client.jobs(self.owner, None, JOBS):
                self._follow(job)
        except DarkroomError as error:
            logger.warning("a page's jobs cannot be listed: %s", error.message)
            if self.shown is None and self.problem is None:
                self.problem = error
        if self.shown is None:
            self.shown = next((job for job in self.own if not job.ended), None)

    def _follow(self, job: Job) -> None:
        self._put(job)
        if not job.ended and job.id not in self._watches:
            self._watches[job.id] = asyncio.create_task(self._watch(job))

    def _put(self, job: Job) -> None:
        known = self._own.get(job.id)
        if known is not None and known.version > job.version:
            return
        if job.owner == self.owner:
            self._own[job.id] = job
        if self.shown is not None and self.shown.id == job.id:
            self.said = self.said if job.status == self.shown.status else None
            self.shown = job
        self._changed.set()

    async def _watch(self, job: Job) -> None:
        try:
            async for state in self._client.watch(job.id):
                self._put(state)
        except DarkroomError as error:
            self._lose(job, error)
        except Exception:
            logger.exception("a page's job could not be followed")
            self._lose(job, DarkroomError())
        finally:
            del self._watches[job.id]
            self._changed.set()

    def _lose(self, job: Job, error: DarkroomError) -> None:
        logger.warning("%s is followed no more: %s", job.id, error.message)
        if self.shown is not None and self.shown.id == job.id:
            self.problem = error

    async def _ask_queue(self) -> None:
        """Keep `queue` young while the job on the stage waits."""
        while True:
            if self.shown is not None and not self.shown.ended:
                try:
                    self.queue = await self._client.queue()
                except DarkroomError as error:
                    logger.warning("the queue cannot be shown: %s", error.message)
                    self.queue = None
                self._changed.set()
            await asyncio.sleep(QUEUE_EVERY_S)
