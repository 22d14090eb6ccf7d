"""Writes jobs to disk, and knows which have unsaved changes: clients see a change once it is durable."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar

from deployments.dispatcher.job_store import JobStore, NotConfirmed, RequestKey
from deployments.errors import StoreUnavailable, Superseded
from deployments.jobs import Job
from deployments.stages.executor import SerialExecutor
from models.errors import Unavailable

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

RETRY_INTERVAL_S = 1.0  # after the database could not be written
CONFIRM_TIMEOUT_S = 15.0  # longer than SQLite waits for another writer
FLUSH_TIMEOUT_S = 5.0  # of a reader that waits for a job's newest state, once the database has a problem

P = ParamSpec("P")
T = TypeVar("T")


class DurableWriter:
    """A store on a thread of its own, and the jobs with unsaved changes.

    `superseded` is called once, when another Dispatcher has taken over.
    """

    def __init__(self, store: JobStore, superseded: Callable[[], None]) -> None:
        self.store = store
        self.superseded = False
        self.problem: str | None = None  # why the database could not be used, since it last could
        self._on_superseded = superseded
        self._thread = SerialExecutor("job-store")  # writes in the order they were asked for
        self._unsaved: dict[str, asyncio.Event] = {}  # job -> set once its newest state is on disk

    async def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of the store. Raises what it raises."""
        try:
            result = await self._thread.run(method, *args, **kwargs)
        except Superseded:
            self.step_down()
            raise
        except (StoreUnavailable, NotConfirmed) as error:
            self.problem = error.reason
            raise
        return result

    async def add(
        self,
        job: Job,
        key: RequestKey | None,
        max_cost_per_day: float | None,
        before: float,
        inputs: Mapping[str, str] = {},
    ) -> None:
        """Put a new job on disk; not after a moment of `time.monotonic`, when its caller has given up.

        Raises:
            InputNotFound, InvalidRequest, QuotaExceeded, Unavailable, StoreUnavailable, Superseded: it is not there.
            NotConfirmed: it may be.
        """

        def in_time() -> None:
            if time.monotonic() > before:
                raise Unavailable("The database of jobs is too slow. Nothing was queued.")
            self.store.add(job, key, max_cost_per_day, inputs)

        await self.call(in_time)

    async def confirm(self) -> None:
        """Check whether another Dispatcher has taken over, and whether a database that failed works again."""
        known = self.problem
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await self.call(self.store.confirm, by_writing=known is not None)
            if self.problem == known:  # and not one that came up since: only a write disproves that
                self.problem = None
        except TimeoutError:
            self.problem = f"The database has not answered for {CONFIRM_TIMEOUT_S:g} s."
        except (Superseded, StoreUnavailable):
            pass  # `call` has noted it

    def step_down(self) -> None:
        """Stop writing: another Dispatcher does."""
        if self.superseded:
            return
        logger.warning("another Dispatcher has taken over")
        self.superseded = True
        for saved in self._unsaved.values():
            saved.set()
        self._on_superseded()

    def check(self) -> None:
        """Raise Superseded if another Dispatcher has taken over."""
        if self.superseded:
            raise Superseded

    def has_unsaved(self, job_id: str) -> bool:
        """Whether a job has changes that are not on disk yet, so that clients must not see them."""
        return job_id in self._unsaved

    async def flushed(self, job_id: str) -> None:
        """Wait until all changes of a job are on disk.

        Raises:
            StoreUnavailable: the database has a problem, and `FLUSH_TIMEOUT_S` have passed.
            Superseded: another Dispatcher writes the job now.
        """
        while (saved := self._unsaved.get(job_id)) is not None:
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await saved.wait()
            except TimeoutError:
                if self.problem is not None:
                    raise StoreUnavailable(self.problem) from None
            self.check()

    def write(self, job_id: str, newest: Callable[[], Job]) -> Coroutine[Any, Any, Job | None]:
        """Write a job's newest state, with retries. The job has unsaved changes from now until the result is awaited.

        Returns the job if this call saved its newest state, None if another call or another Dispatcher did or will.
        """
        self._unsaved.setdefault(job_id, asyncio.Event())
        return self._write(job_id, newest)

    async def _write(self, job_id: str, newest: Callable[[], Job]) -> Job | None:
        while job_id in self._unsaved and not self.superseded:
            job = newest()
            try:
                await self.call(self.store.save, job)
            except StoreUnavailable as error:
                logger.error("%s", error.reason)
                await asyncio.sleep(RETRY_INTERVAL_S)
            except Superseded:
                break
            else:
                if _durable(newest()) == _durable(job) and job_id in self._unsaved:
                    self._unsaved.pop(job_id).set()
                    return newest()
        return None


def _durable(job: Job) -> tuple[object, ...]:
    """What clients must not see of a job before it is on disk."""
    return job.status if job.ended else "open", job.images
