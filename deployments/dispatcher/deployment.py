"""The Dispatcher: owns the queue, runs each picture through the pipeline when there is room, and tells who watches."""

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from deployments.dispatcher.forecast import Estimate, Task, forecast
from deployments.dispatcher.job_queue import JobQueue, Lease
from deployments.schema import GenerationRequest, ImageResult, Job, new_job, resolve
from models.denoiser.step_curve import StepCurve
from models.errors import DarkroomError, ReplicaLost, UnknownModel
from models.spec import ImageSpec, ModelCard, StepUpdate

logger = logging.getLogger(__name__)

FORECAST_INTERVAL_S = 0.5
COUNT_INTERVAL_S = 2.0
AROUND_S = 0.03  # encoding and decoding, until a picture has been measured


class Generates(Protocol):
    """What draws a picture: `deployments.pipeline.Pipeline`, or a fake."""

    def generate(self, spec: ImageSpec, lease: Lease) -> AsyncIterator[StepUpdate | ImageResult]: ...


@dataclass(frozen=True, slots=True)
class QueueState:
    """The whole queue at a glance. Counts are pictures."""

    waiting: int
    running: int
    eta_s: float  # until everything in it is done
    replicas: Mapping[str, int]
    batch_rows_mean: float


class Dispatcher:
    """The cluster's one queue in action. All methods run on one event loop."""

    def __init__(
        self,
        card: ModelCard,
        pipeline: Generates,
        *,
        max_waiting: int,
        max_rows: int,
        replicas: Callable[[], Mapping[str, int]],
    ) -> None:
        self._card = card
        self._pipeline = pipeline
        self._queue = JobQueue(max_waiting)
        self._max_rows = max_rows
        self._count_replicas = replicas
        self._replicas: Mapping[str, int] = {}
        self._counted_at = 0.0
        self._curve = StepCurve()
        self._around_s = AROUND_S
        self._tasks: dict[Lease, asyncio.Task[None]] = {}
        self._feeds: set[Feed] = set()
        self._estimates: dict[tuple[str, int], Estimate] = {}
        self._forecasting: asyncio.Task[None] | None = None

    # -- what ingresses call

    async def submit(self, request: GenerationRequest, owner: str) -> Job:
        """Queue a request.

        Raises:
            UnknownModel, InvalidRequest, QueueFull: nothing was queued.
        """
        if request.model not in (None, self._card.id):
            raise UnknownModel(f"model: there is no {request.model[:200]}; served: {self._card.id}.", "model")
        job = new_job(resolve(request, self._card), owner, time.time())
        self._queue.submit(job, self._retry_after_s())
        self._pump()
        return self._queue.job(job.id)

    async def job(self, job_id: str, owner: str | None) -> Job:
        """Return a job's present state; `NotFound` if it is somebody else's."""
        return self._queue.job(job_id, owner)

    async def jobs(self, owner: str) -> list[Job]:
        """Return an owner's jobs, newest first."""
        return self._queue.jobs(owner)

    async def cancel(self, job_id: str, owner: str | None) -> Job:
        """End a job; its pictures leave the denoiser within one step."""
        job = self._queue.cancel(job_id, owner, time.time())
        self._changed(job)
        return job

    async def models(self) -> list[ModelCard]:
        """Return the cards of the served models."""
        return [self._card]

    async def queue(self) -> QueueState:
        """Return the whole queue at a glance."""
        updates = [update for _, _, update in self._queue.running if update]
        return QueueState(
            waiting=self._queue.waiting,
            running=len(self._queue.running),
            eta_s=max((estimate.end_s for estimate in self._forecast().values()), default=0.0),
            replicas=await self._counted(),
            batch_rows_mean=sum(update.batch_rows for update in updates) / len(updates) if updates else 0.0,
        )

    async def feed(self) -> AsyncIterator[list[Job]]:
        """Yield the newest state of the jobs that changed, as often as the reader asks; the first item is empty."""
        feed = Feed()
        self._feeds.add(feed)
        try:
            yield []
            while True:
                yield await feed.changes()
        finally:
            self._feeds.discard(feed)

    # -- what happens meanwhile

    def _pump(self) -> None:
        """Start pictures while fewer than twice the denoisers' rows are in flight, and at least one picture."""
        limit = 2 * self._max_rows * max(1, self._replicas.get("denoiser", 1))
        while (rows := sum(spec.rows for _, spec, _ in self._queue.running)) < limit or not rows:
            granted = self._queue.grant(time.time())
            if granted is None:
                break
            lease, job = granted
            task = asyncio.create_task(self._run(lease, job.specs[lease.index]))
            self._tasks[lease] = task
            task.add_done_callback(lambda _, lease=lease: self._left(lease))
            self._changed(job)
        if self._forecasting is None or self._forecasting.done():
            self._forecasting = asyncio.create_task(self._keep_forecasting())

    async def _run(self, lease: Lease, spec: ImageSpec) -> None:
        """Draw one picture and book what came of it."""
        start, last = time.monotonic(), None
        try:
            async for word in self._pipeline.generate(spec, lease):
                if isinstance(word, StepUpdate):
                    self._measure(spec, last, word)
                    last = word
                    self._changed(self._queue.progress(lease, word, _data_url(word.preview)))
                else:
                    self._around_s += 0.2 * (time.monotonic() - start - word.denoise_s - self._around_s)
                    self._changed(self._queue.finish(lease, word, time.time()))
        except ReplicaLost:
            logger.warning("lost a replica: %s", lease)
            self._changed(self._queue.lose(lease, time.time()))
        except DarkroomError as error:
            self._changed(self._queue.fail(lease, error, time.time()))
        except Exception:
            logger.exception("picture failed: %s", lease)
            self._changed(self._queue.fail(lease, DarkroomError(), time.time()))

    def _left(self, lease: Lease) -> None:
        """Fill the room that a picture leaves; also called for a picture that was cancelled before its first turn."""
        del self._tasks[lease]
        self._pump()

    def _measure(self, spec: ImageSpec, before: StepUpdate | None, now: StepUpdate) -> None:
        """Learn how long a step takes from two updates of a picture."""
        if before and now.step > before.step:
            seconds = (now.denoise_s - before.denoise_s) / (now.step - before.step)
            self._curve.measure(now.batch_rows, spec.width * spec.height, seconds)

    def _changed(self, job: Job | None) -> None:
        """Tell the feeds; an ended job's other pictures leave the denoiser within one step."""
        if job is None:
            return
        for feed in self._feeds:
            feed.put(job)
        if job.ended:
            for lease, task in self._tasks.items():
                if lease.job_id == job.id and task is not asyncio.current_task():
                    task.cancel()

    def _forecast(self) -> dict[tuple[str, int], Estimate]:
        tasks = [
            ((lease.job_id, lease.index), _task(spec, update.step if update else 0))
            for lease, spec, update in self._queue.running
        ]
        tasks += [((w.lease.job_id, w.lease.index), _task(w.spec, 0)) for w in self._queue.line()]
        return forecast(
            tasks,
            replicas=self._replicas.get("denoiser", 1),
            max_rows=self._max_rows,
            step_s=self._curve.step_s,
            around_s=self._around_s,
        )

    async def _keep_forecasting(self) -> None:
        """Refresh places and times while anything waits or runs."""
        while self._queue.waiting or self._queue.running:
            await self._counted()
            self._pump()  # there may be more replicas than before
            for job in self._queue.estimate(self._forecast()):
                self._changed(job)
            await asyncio.sleep(FORECAST_INTERVAL_S)

    async def _counted(self) -> Mapping[str, int]:
        """Return how many replicas each stage has, as of the last few seconds."""
        if time.monotonic() - self._counted_at > COUNT_INTERVAL_S:
            self._counted_at = time.monotonic()
            self._replicas = await asyncio.to_thread(self._count_replicas)
        return self._replicas

    def _retry_after_s(self) -> int:
        """When the first picture in line will have started: then there is room for one more."""
        starts = [estimate.start_s for estimate in self._forecast().values() if estimate.start_s > 0]
        return max(1, min(120, round(min(starts, default=1.0))))


class Feed:
    """The newest state of each job that changed since the reader last looked: no log, no replay."""

    def __init__(self) -> None:
        self._changes: dict[str, Job] = {}
        self._some = asyncio.Event()

    def put(self, job: Job) -> None:
        """Note a change; an older one of the same job that was not read is forgotten."""
        self._changes[job.id] = job
        self._some.set()

    async def changes(self) -> list[Job]:
        """Wait for changes and take them."""
        await self._some.wait()
        self._some.clear()
        changes, self._changes = self._changes, {}
        return list(changes.values())


def _task(spec: ImageSpec, done: int) -> Task:
    return Task(spec.rows, spec.width * spec.height, spec.model_calls - done)


def _data_url(preview: bytes | None) -> str | None:
    return f"data:image/webp;base64,{base64.b64encode(preview).decode()}" if preview else None
