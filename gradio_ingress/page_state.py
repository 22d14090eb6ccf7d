"""The state of one open page: the jobs of its owner, followed until all have ended, one of them selected."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence

from deployments.dispatcher.client import DispatcherClient
from deployments.dispatcher.queue_stats import QueueStats
from deployments.jobs import Job
from models.errors import DarkroomError

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

LISTED_JOBS = 12  # at first; "Show more" lists earlier ones
MAX_PAGE = 100  # jobs of one call to the Dispatcher
UPDATE_INTERVAL_S = 0.25  # between two updates of the page, at least
QUEUE_INTERVAL_S = 2.0


async def newest_jobs(client: DispatcherClient, owner: str, count: int) -> list[Job]:
    """Return an owner's jobs, newest first: `count` of them, or all if there are fewer.

    Raises:
        NotFound, Gone, Unavailable: they cannot be listed; a job between two pages of the list may just have expired.
    """
    found: list[Job] = []
    while (wanted := min(count - len(found), MAX_PAGE)) > 0:
        page = await client.jobs(owner, None, wanted, found[-1].id if found else None)
        found += page
        if len(page) < wanted:
            break
    return found


class PageState:
    """The jobs of one page. Event handlers select jobs; the one that renders the page iterates over `changes`."""

    def __init__(self, client: DispatcherClient, owner: str, listed: int = LISTED_JOBS) -> None:
        self.owner = owner
        self.listed = listed  # how many of the owner's jobs the page lists
        self.selected: Job | None = None
        self.problem: DarkroomError | None = None  # why a job could not be found or followed
        self.queue: QueueStats | None = None
        self._client = client
        self._jobs: dict[str, Job] = {}
        self._changed = asyncio.Event()
        self._watches: dict[str, asyncio.Task[None]] = {}

    @property
    def jobs(self) -> list[Job]:
        """The owner's jobs that are known, newest first: one more than are listed, if there are as many."""
        return sorted(self._jobs.values(), key=lambda job: job.timestamps.created, reverse=True)

    def select(self, job: Job) -> None:
        """Select a job, and follow it. It may be another owner's."""
        self.selected, self.problem = job, None
        self._follow(job)

    def list_jobs(self, jobs: Sequence[Job], listed: int) -> None:
        """List so many of the owner's jobs, and follow them. `jobs` are the newest: one more, if there are as many."""
        self.listed = max(self.listed, listed)
        for job in jobs:
            self._follow(job)
        self._changed.set()

    async def changes(self) -> AsyncGenerator[None]:
        """Yield at once, then whenever something has changed, until every job has ended.

        If no job is selected at first, the owner's newest job that has not ended is.
        """
        polling = asyncio.create_task(self._poll_queue())
        try:
            await self.load_jobs()
            while True:
                self._changed.clear()
                shown_at = time.monotonic()
                yield
                if not self._watches and not self._changed.is_set():
                    return
                await self._changed.wait()
                await asyncio.sleep(max(0.0, shown_at + UPDATE_INTERVAL_S - time.monotonic()))
        finally:
            for task in (polling, *self._watches.values()):
                task.cancel()

    async def load_jobs(self) -> None:
        """List the owner's newest jobs, which other pages may have begun, and follow them."""
        try:
            self.list_jobs(await newest_jobs(self._client, self.owner, self.listed + 1), self.listed)
        except DarkroomError as error:
            logger.warning("a page's jobs cannot be listed: %s", error.message)
            if self.selected is None and self.problem is None:
                self.problem = error
        if self.selected is None:
            self.selected = next((job for job in self.jobs if not job.ended), None)

    def _follow(self, job: Job) -> None:
        self._put(job)
        if not job.ended and job.id not in self._watches:
            self._watches[job.id] = asyncio.create_task(self._watch(job))

    def _put(self, job: Job) -> None:
        known = self._jobs.get(job.id)
        if known is not None and known.version > job.version:
            return
        if job.owner == self.owner:
            self._jobs[job.id] = job
        if self.selected is not None and self.selected.id == job.id:
            self.selected = job
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
        logger.warning("%s is no longer followed: %s", job.id, error.message)
        if self.selected is not None and self.selected.id == job.id:
            self.problem = error

    async def _poll_queue(self) -> None:
        """Keep `queue` up to date while the selected job has not ended."""
        while True:
            if self.selected is not None and not self.selected.ended:
                try:
                    self.queue = await self._client.queue()
                except DarkroomError as error:
                    logger.warning("the queue cannot be shown: %s", error.message)
                    self.queue = None
                self._changed.set()
            await asyncio.sleep(QUEUE_INTERVAL_S)
