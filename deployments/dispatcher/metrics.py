"""What the Dispatcher records; `deployments.metrics` says how metrics are named and what they cost."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from deployments.dispatcher.job_queue import MAX_ATTEMPTS
from deployments.dispatcher.lease import Lease
from deployments.errors import ReplicaLost, Superseded
from deployments.jobs import ImageResult, Job
from models.errors import DarkroomError
from models.spec import ImageSpec, StepUpdate

JOB_S = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]
OFF = [0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0]


class DispatcherMetrics:
    """What the Dispatcher records: of jobs as they come, start and end, and once a second of its line."""

    def __init__(self) -> None:
        model = ("model",)
        ended: Any = ("model", "status", "code")  # Ray's annotation knows one tag
        wasted: Any = ("model", "reason")
        self._rejects = Counter("darkroom_rejects", description="Requests that were refused.", tag_keys=("code",))
        self._jobs = Counter("darkroom_jobs", description="Jobs that ended.", tag_keys=ended)
        self._retries = Counter("darkroom_retries", description="Pictures that began again.", tag_keys=model)
        self._wasted_steps = Counter(
            "darkroom_wasted_steps", description="Steps of pictures that came to nothing.", tag_keys=wasted
        )
        self._queue_wait = Histogram(
            "darkroom_queue_wait_seconds",
            description="Seconds from a job's being accepted to its first picture's start.",
            boundaries=JOB_S,
            tag_keys=model,
        )
        self._first_preview = Histogram(
            "darkroom_first_preview_seconds",
            description="Seconds from a job's being accepted to its first preview.",
            boundaries=JOB_S,
            tag_keys=model,
        )
        self._job_seconds = Histogram(
            "darkroom_job_seconds",
            description="Seconds from a job's being accepted to its success.",
            boundaries=JOB_S,
            tag_keys=model,
        )
        self._eta_error = Histogram(
            "darkroom_eta_error_ratio",
            description="How far off the start was that a job was told first, of the time told.",
            boundaries=OFF,
            tag_keys=model,
        )
        self._waiting = Gauge("darkroom_waiting_pictures", description="Pictures in line.", tag_keys=model)
        self._most_waiting = Gauge("darkroom_most_waiting_pictures", description="Pictures that may be in line.")
        self._owners = Gauge("darkroom_waiting_owners", description="Owners of the pictures in line.")
        self._running = Gauge("darkroom_running_pictures", description="Pictures in the making.", tag_keys=model)
        self._backlog = Gauge(
            "darkroom_backlog_seconds", description="Seconds until all that was asked for is drawn.", tag_keys=model
        )
        self._epoch = Gauge("darkroom_epoch", description="Of the Dispatcher in charge: one more with each.")
        self._store_problem = Gauge("darkroom_store_problem", description="1 while the database cannot be used.")
        self._inputs_expired = Counter("darkroom_inputs_expired", description="Uploaded images that have expired.")
        self._input_bytes = Gauge(
            "darkroom_input_bytes", description="Bytes of the uploaded images that are kept, as quotas count them."
        )

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Count what keeps a request out of the line."""
        try:
            yield
        except DarkroomError as error:
            self._rejects.inc(1, {"code": error.code})
            raise

    def started(self, job: Job, eta_error: float | None) -> None:
        """Take in that a job's first picture starts, and how far off the time was that it had been told."""
        model, times = {"model": job.model}, job.timestamps
        assert times.started is not None
        self._queue_wait.observe(max(0.0, times.started - times.created), model)
        if eta_error is not None:
            self._eta_error.observe(eta_error, model)

    @contextmanager
    def drawing(
        self, spec: ImageSpec, lease: Lease, age_s: Callable[[], float]
    ) -> Iterator[Callable[[StepUpdate | ImageResult], None]]:
        """Hear of a picture while it is drawn, and count what was for nothing; `age_s` is its job's."""
        steps = 0
        awaited = lease.index == 0 and lease.attempt == 1  # its first preview is the job's

        def hear(word: StepUpdate | ImageResult) -> None:
            nonlocal steps, awaited
            if isinstance(word, ImageResult):
                steps = 0
                return
            steps = word.step
            if awaited and word.preview:
                awaited = False
                self._first_preview.observe(max(0.0, age_s()), {"model": spec.model})

        try:
            yield hear
        except BaseException as error:
            if isinstance(error, ReplicaLost) and lease.attempt < MAX_ATTEMPTS:
                self._retries.inc(1, {"model": spec.model})
            if steps:
                self._wasted_steps.inc(steps, {"model": spec.model, "reason": _reason(error)})
            raise

    def ended(self, job: Job) -> None:
        """Take in what became of a job."""
        model, times = job.model, job.timestamps
        self._jobs.inc(1, {"model": model, "status": job.status, "code": job.error.code if job.error else ""})
        if job.status == "succeeded" and times.ended is not None:
            self._job_seconds.observe(max(0.0, times.ended - times.created), {"model": model})

    def line(self, model: str, waiting: int, running: int, backlog_s: float) -> None:
        """Say how the line of a model is, in pictures."""
        self._waiting.set(waiting, {"model": model})
        self._running.set(running, {"model": model})
        self._backlog.set(backlog_s, {"model": model})

    def inputs_expired(self, count: int) -> None:
        """Take in that inputs have expired."""
        if count:
            self._inputs_expired.inc(count)

    def whole(self, *, epoch: int, store_problem: bool, owners: int, most_waiting: int, input_bytes: int) -> None:
        """Say who is in charge, whether the database is as it should be, who waits where so many may, and how much
        was uploaded."""
        self._epoch.set(epoch)
        self._store_problem.set(int(store_problem))
        self._owners.set(owners)
        self._most_waiting.set(most_waiting)
        self._input_bytes.set(input_bytes)


def _reason(error: BaseException) -> str:
    match error:
        case ReplicaLost():
            return "lost"
        case Superseded():
            return "superseded"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "failed"
