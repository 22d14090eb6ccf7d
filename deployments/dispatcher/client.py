"""Typed calls to the Dispatcher, for both ingresses, and one feed of changed jobs for all watchers of a process."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, Protocol

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.dispatcher.queue_stats import Allowance, QueueStats
from deployments.errors import Gone, NotFound, ReplicaLost, StoreUnavailable, Superseded, UnreadableJob
from deployments.input_store import NewInput, StoredInput
from deployments.jobs import Job, Status
from deployments.schema import GenerationRequest
from deployments.serve.ray_errors import translated
from models.errors import DarkroomError, Unavailable
from models.model_card import ModelCard
from models.spec import Tokens

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

RECONNECT_S = 0.5
WATCH_INTERVAL_S = 0.2  # between two states that a watcher is told
PATIENCE_S = 60.0  # a Dispatcher that is replaced is back sooner


class Calls(Protocol):
    """How a method of the Dispatcher is reached."""

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method and return its result."""
        ...

    def stream(self, method: str) -> AsyncIterator[Any]:
        """Call an async generator method."""
        ...


class ServeCalls:
    """Calls by Serve handle, taken on first use: while the other application still builds, there is none."""

    def __init__(self, handle: Callable[[], DeploymentHandle]) -> None:
        self._get_handle = handle
        self._handle: DeploymentHandle | None = None

    @classmethod
    def to_app(cls, app_name: str) -> "ServeCalls":
        """Calls to the Dispatcher of another application."""
        return cls(lambda: serve.get_deployment_handle("Dispatcher", app_name))

    def _method(self, name: str, *, stream: bool = False) -> Any:
        if self._handle is None:
            try:
                self._handle = self._get_handle()
            except (RayServeException, KeyError) as error:  # KeyError: no such application yet
                raise Unavailable("The service is still starting.") from error
        return getattr(self._handle.options(stream=stream), name)

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method and return its result."""
        with translated():
            return await self._method(method).remote(*args)

    async def stream(self, method: str) -> AsyncIterator[Any]:
        """Call an async generator method; leaving it ends the producer."""
        with translated():
            items = self._method(method, stream=True).remote()
            try:
                async for item in items:
                    yield item
            finally:
                items.cancel()


class DispatcherClient:
    """What an ingress knows of the cluster."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._watchers: dict[str, set[asyncio.Queue[Job | DarkroomError]]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def submit(
        self, request: GenerationRequest, owner: str, key: str | None = None, *, alpha_is_mask: bool = False
    ) -> Job:
        """Queue a request; the same key and request give the same job again.

        With `alpha_is_mask` the transparency of its image is no cause for a warning.

        Raises:
            UnknownModel, InvalidRequest, QueueFull, IdempotencyKeyReused, Unavailable: nothing was queued.
        """
        return await self._call("submit", request, owner, key or f"darkroom-{secrets.token_hex(16)}", alpha_is_mask)

    async def accepted(self, request: GenerationRequest, owner: str, key: str) -> Job | None:
        """Return the job that a request with the same key got before, if any. Raises IdempotencyKeyReused, Gone."""
        return await self._call("accepted", request, owner, key)

    async def job(self, job_id: str, owner: str | None = None, link: str = "") -> Job:
        """Return a job's present state, to its owner or who has its link. Raises: NotFound, Gone."""
        return await self._call("job", job_id, owner, link)

    async def jobs(
        self, owner: str, status: Status | None = None, limit: int = 100, after: str | None = None
    ) -> list[Job]:
        """Return an owner's jobs, newest first: those of one status, and those that came before the job `after`.

        Raises:
            NotFound, Gone: `after`.
        """
        return await self._call("jobs", owner, status, limit, after)

    async def allowance(self, owner: str) -> Allowance | None:
        """Return what the key of an owner may ask for, and what is left; None for an owner without a key."""
        return await self._call("allowance", owner)

    async def tokens(self, request: GenerationRequest) -> tuple[Tokens, Tokens]:
        """Count what is read of prompt and negative prompt. Raises: UnknownModel, InvalidRequest."""
        return await self._call("tokens", request)

    async def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """End a job. Raises: NotFound, JobEnded."""
        return await self._call("cancel", job_id, owner)

    async def check_input_room(self, owner: str, size: int) -> None:
        """Check whether an owner may keep `size` bytes more. Raises InputQuotaExceeded, StorageFull."""
        await self._call("check_input_room", owner, size)

    async def add_input(self, owner: str, new: NewInput) -> tuple[StoredInput, bool] | None:
        """Add an input, and return it and whether its owner did not have it; None if its file has gone.

        Raises:
            InputQuotaExceeded, StorageFull: there is no room, and the file was deleted.
        """
        return await self._call("add_input", owner, new)

    async def input(self, input_id: str, owner: str) -> StoredInput:
        """Return an input of an owner. Raises InputNotFound."""
        return await self._call("input", input_id, owner)

    async def inputs(self, owner: str, limit: int = 100, after: str | None = None) -> list[StoredInput]:
        """Return an owner's inputs, newest first: those that come after the input `after`. Raises InputNotFound."""
        return await self._call("inputs", owner, limit, after)

    async def delete_input(self, input_id: str, owner: str) -> None:
        """Delete an input of an owner. Raises InputNotFound, InputInUse."""
        await self._call("delete_input", input_id, owner)

    async def problem(self) -> str | None:
        """Say what keeps jobs from being accepted, if anything does."""
        return await self._call("problem")

    async def models(self) -> list[ModelCard]:
        """Return the cards of the served models."""
        return await self._call("models")

    async def queue(self) -> QueueStats:
        """Return the whole queue at a glance."""
        return await self._call("queue")

    async def _call(self, method: str, *args: Any) -> Any:
        """Call the Dispatcher, and again if it is replaced meanwhile: a submission's key keeps it from happening twice.

        Raises:
            Unavailable: there was no Dispatcher for too long.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        return await self._calls.call(method, *args)
                    except (ReplicaLost, Superseded) as error:
                        logger.warning("%s: asking the next Dispatcher: %s", method, error.message)
                        await asyncio.sleep(RECONNECT_S)
        except TimeoutError as error:
            raise Unavailable("The queue does not answer. Try again later.") from error

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """Yield a job's newest state when it differs from the one yielded last, until it has ended: five a second.

        For who may look at it: `job` tells.

        Raises:
            NotFound, Gone: no such job, or not any more.
        """
        news: asyncio.Queue[Job | DarkroomError] = asyncio.Queue()
        self._watchers.setdefault(job_id, set()).add(news)
        if self._reader is None or self._reader.done():
            # In a context of its own: with a request that is cut, Serve cancels the calls made in that request's.
            self._reader = asyncio.create_task(self._read_feed(), context=Context())
        try:
            job = await self._job_on_disk(job_id)
            yield job
            while not job.ended:
                newest = await _newest(news, time.monotonic() + WATCH_INTERVAL_S)
                if isinstance(newest, DarkroomError):
                    raise newest
                if newest.version > job.version:
                    job = newest
                    yield job
        finally:
            self._watchers[job_id].discard(news)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    async def _read_feed(self) -> None:
        """Hold one feed while anyone watches; whenever it opens, catch up with what it did not see."""
        while self._watchers:
            try:
                async with asyncio.TaskGroup() as group:
                    catching_up: list[asyncio.Task[None]] = []
                    async for jobs in self._calls.stream("feed"):
                        for job in jobs:
                            self._tell(job.id, job)
                        if not jobs:  # beside the feed: one job may have to wait for the disk
                            catching_up = [group.create_task(self._catch_up(job_id)) for job_id in self._watchers]
                        if not self._watchers:
                            break
                    for task in catching_up:
                        task.cancel()
            except (Exception, asyncio.CancelledError) as error:  # whatever it was: watchers must not wait for ever
                if self._reader is not None and self._reader.cancelling():  # this task, and not the call it waited for
                    raise
                logger.warning("the feed broke: %r", error)
                await asyncio.sleep(RECONNECT_S)

    async def _catch_up(self, job_id: str) -> None:
        """Tell a job's watchers its present state, or that it is gone."""
        try:
            self._tell(job_id, await self._job_on_disk(job_id))
        except (NotFound, Gone, UnreadableJob) as error:
            self._tell(job_id, error)

    async def _job_on_disk(self, job_id: str) -> Job:
        """Return a job's present state, once that is on disk. Raises: NotFound, Gone, UnreadableJob."""
        while True:
            try:
                return await self.job(job_id)
            except StoreUnavailable as error:
                logger.error("%s", error.reason)
                await asyncio.sleep(RECONNECT_S)

    def _tell(self, job_id: str, word: Job | DarkroomError) -> None:
        for news in self._watchers.get(job_id, ()):
            news.put_nowait(word)


async def _newest(news: "asyncio.Queue[Job | DarkroomError]", not_before: float) -> Job | DarkroomError:
    """Take the newest word: not before its time, unless it is the last."""
    word = await news.get()
    while True:
        while not news.empty():
            word = _newer(word, news.get_nowait())
        left = not_before - time.monotonic()
        if left <= 0 or isinstance(word, DarkroomError) or word.ended:
            return word
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                word = _newer(word, await news.get())


def _newer(word: Job | DarkroomError, other: Job | DarkroomError) -> Job | DarkroomError:
    """Return an error, else the higher version: what catches up may come after what the feed had."""
    if isinstance(word, DarkroomError) or (isinstance(other, Job) and other.version <= word.version):
        return word
    return other
