"""When what has become of a job may be told: once it is on disk."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from deployments.dispatcher.job_store import JobStore, NotConfirmed, RequestKey
from deployments.errors import StoreUnavailable, Superseded
from deployments.schema import Job
from deployments.stages.executor import SerialExecutor
from models.errors import Unavailable

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

WRITE_AGAIN_S = 1.0  # after the database could not be written
SILENT_S = 15.0  # longer than SQLite waits for another writer
BEHIND_S = 5.0  # how long a reader waits for a job's newest state to be on disk, once the database has a problem

P = ParamSpec("P")
T = TypeVar("T")


class Ledger:
    """A store on a thread of its own, and which jobs it is behind with.

    `superseded` is called once, when another Dispatcher turns out to have taken over.
    """

    def __init__(self, store: JobStore, superseded: Callable[[], None]) -> None:
        self.store = store
        self.superseded = False
        self.problem: str | None = None  # why the database could not be used, since it last could
        self._on_superseded = superseded
        self._thread = SerialExecutor("job-store")  # writes in the order they were asked for
        self._behind: dict[str, asyncio.Event] = {}  # job -> set once the disk has its newest state

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

    async def add(self, job: Job, key: RequestKey | None, max_cost_per_day: float | None, before: float) -> None:
        """Put a new job on disk; not after a moment of `time.monotonic`, when its caller has given up.

        Raises:
            QuotaExceeded, Unavailable, StoreUnavailable, Superseded: it is not there.
            NotConfirmed: it may be.
        """

        def in_time() -> None:
            if time.monotonic() > before:
                raise Unavailable("The database of jobs is too slow. Nothing was queued.")
            self.store.add(job, key, max_cost_per_day)

        await self.call(in_time)

    async def confirm(self) -> None:
        """See whether another Dispatcher has taken over, and whether a database that failed works again."""
        known = self.problem
        try:
            async with asyncio.timeout(SILENT_S):
                await self.call(self.store.confirm, by_writing=known is not None)
            if self.problem == known:  # and not one that came up since: only a write disproves that
                self.problem = None
        except TimeoutError:
            self.problem = f"The database has not answered for {SILENT_S:g} s."
        except (Superseded, StoreUnavailable):
            pass  # `call` has noted it

    def step_down(self) -> None:
        """Write nothing any more: another Dispatcher does."""
        if self.superseded:
            return
        logger.warning("another Dispatcher has taken over")
        self.superseded = True
        for up_to_date in self._behind.values():
            up_to_date.set()
        self._on_superseded()

    def check(self) -> None:
        """Raise Superseded where another Dispatcher has taken over."""
        if self.superseded:
            raise Superseded

    def is_behind(self, job_id: str) -> bool:
        """Whether something of a job is not on disk yet, and so must not be told."""
        return job_id in self._behind

    async def up_to_date(self, job_id: str) -> None:
        """Wait until what is known of a job is on disk.

        Raises:
            StoreUnavailable: the database has a problem, and the job was waited for `BEHIND_S`.
            Superseded: that is for another Dispatcher to write.
        """
        while (up_to_date := self._behind.get(job_id)) is not None:
            try:
                async with asyncio.timeout(BEHIND_S):
                    await up_to_date.wait()
            except TimeoutError:
                if self.problem is not None:
                    raise StoreUnavailable(self.problem) from None
            self.check()

    def write(self, job_id: str, newest: Callable[[], Job]) -> Coroutine[Any, Any, Job | None]:
        """Put a job's newest state on disk, as often as that takes. From now on it is behind, until that is awaited.

        Returns the job if this brought the disk up to date, None if another call did or will, or another Dispatcher.
        """
        self._behind.setdefault(job_id, asyncio.Event())
        return self._write(job_id, newest)

    async def _write(self, job_id: str, newest: Callable[[], Job]) -> Job | None:
        while job_id in self._behind and not self.superseded:
            job = newest()
            try:
                await self.call(self.store.save, job)
            except StoreUnavailable as error:
                logger.error("%s", error.reason)
                await asyncio.sleep(WRITE_AGAIN_S)
            except Superseded:
                break
            else:
                if _durable(newest()) == _durable(job) and job_id in self._behind:
                    self._behind.pop(job_id).set()
                    return newest()
        return None


def _durable(job: Job) -> tuple[object, ...]:
    """What of a job must not be told before it is on disk."""
    return job.status if job.ended else "open", job.images
