"""The cluster's one queue, pure: jobs and leases. Time is passed in, changed jobs are returned.

Each model has a queue of its own, fair between owners, so that a busy model delays no other's images.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any

from deployments.dispatcher.fair_queue import FairQueue
from deployments.dispatcher.forecaster import QueueForecast
from deployments.dispatcher.job_progress import place_of, progress_of, with_end, with_warning
from deployments.dispatcher.lease import ImageKey, Lease, QueuedImage
from deployments.errors import DeadlineExceeded, JobEnded, NotFound, OwnerQueueFull, QueueFull, ReplicaLost
from deployments.jobs import ImageResult, Job, JobError, Status
from models.errors import DarkroomError, InvalidRequest
from models.spec import ImageSpec, StepUpdate

MAX_ATTEMPTS = 3
KEPT_JOBS = 1000  # that have ended; beyond, the oldest are on disk only
LOST = "A worker stopped; the image restarted at the front of the queue."
RESTARTED = "The service restarted; the job kept its place."
TILED = "An image did not fit into memory whole: it was decoded in tiles, whose seams may show."


@dataclass(frozen=True, slots=True)
class Limits:
    """How many images may wait and run, in all and for one owner; None is no limit."""

    waiting: int
    owner_waiting: int | None = None
    owner_running: int | None = None


class JobQueue:
    """Jobs from submission to their end."""

    def __init__(self, limits: Limits, epoch: int = 0) -> None:
        self._limits = limits
        self._epoch = epoch
        self._jobs: dict[str, Job] = {}
        self._ended: deque[str] = deque()  # jobs, in the order of their ends
        self._queues: defaultdict[str, FairQueue] = defaultdict(FairQueue)  # by model
        self._deadlines: list[tuple[float, str]] = []  # a heap, of jobs that have ended too
        self._running: dict[ImageKey, Lease] = {}
        self._running_of: Counter[str] = Counter()  # owner -> running images
        self._rows: Counter[str] = Counter()  # model -> rows of its running images
        self._updates: dict[ImageKey, StepUpdate] = {}

    # -- reading

    def job(self, job_id: str, owner: str | None = None, link: str = "") -> Job:
        """Return a job; somebody else's does not exist, but for who has its link.

        Raises:
            NotFound: no such job.
        """
        job = self._jobs.get(job_id)
        if job is None or not job.shown_to(owner, link):
            raise NotFound(f"There is no job {job_id}.")
        return job

    def jobs(self, owner: str) -> list[Job]:
        """Return an owner's jobs, newest first."""
        return [job for job in reversed(self._jobs.values()) if job.owner == owner]

    @property
    def waiting(self) -> int:
        """Images in the queue, for all models."""
        return sum(map(len, self._queues.values()))

    @property
    def owners_waiting(self) -> int:
        """Owners with images in the queue."""
        return len(set[str]().union(*(queue.owners for queue in self._queues.values())))

    def waiting_for(self, model: str) -> int:
        """Return how many images wait for a model."""
        return len(self._queues[model])

    def rows(self, model: str) -> int:
        """Return the rows of a model's running images."""
        return self._rows[model]

    @property
    def running(self) -> list[tuple[Lease, ImageSpec, StepUpdate | None]]:
        """Running images, with the newest update of each."""
        return [
            (lease, self._jobs[lease.job_id].specs[lease.index], self._updates.get(key))
            for key, lease in self._running.items()
        ]

    def running_of(self, model: str) -> list[tuple[Lease, ImageSpec, StepUpdate | None]]:
        """Return a model's running images, with the newest update of each."""
        return [one for one in self.running if one[1].model == model]

    def waiting_of(self, owner: str) -> int:
        """Return how many images of an owner are in the queue."""
        return sum(queue.of(owner) for queue in self._queues.values())

    def waiting_cost(self, model: str) -> float:
        """Return the work in a model's queue, in `ImageSpec.cost`."""
        return self._queues[model].cost

    def queued_images(self, job_id: str) -> int:
        """Return how many images of a job are in the queue."""
        return self._queues[self._jobs[job_id].model].of_job(job_id)

    def knows(self, job_id: str) -> bool:
        """Whether a job is here, and has perhaps ended."""
        return job_id in self._jobs

    def is_open(self, job_id: str) -> bool:
        """Whether a job is here and has not ended."""
        return job_id in self._jobs and not self._jobs[job_id].ended

    def queued(self, model: str) -> Iterator[QueuedImage]:
        """Iterate over the queued images of a model, in the order in which they are granted if nobody else arrives."""
        return iter(self._queues[model])

    # -- changing

    def check_room(
        self,
        owner: str,
        pictures: int,
        retry_after_s: Callable[[int], int] = lambda _: 1,
        own_most: int | None = None,
    ) -> None:
        """Check that there is room for an owner's images. `retry_after_s` returns when so many will have left the
        queue; `own_most` is the owner's own limit.

        Raises:
            QueueFull: there is none; OwnerQueueFull: there is none for this owner.
            InvalidRequest: there never will be.
        """
        most = self._limits.waiting
        owner_most = min((m for m in (self._limits.owner_waiting, own_most) if m is not None), default=None)
        ever = min(most, most if owner_most is None else owner_most)
        if pictures > ever:
            message = f"num_images must be at most {ever}, as no more of your pictures may wait; got {pictures}."
            raise InvalidRequest(message, "num_images")
        if self.waiting + pictures > most:
            over = self.waiting + pictures - most
            raise QueueFull(f"The queue is full ({most}). Nothing was queued.", retry_after_s(over))
        if owner_most is not None and self.waiting_of(owner) + pictures > owner_most:
            message = f"At most {owner_most} of your pictures may wait at a time. Nothing was queued."
            raise OwnerQueueFull(message, retry_after_s(1))

    def submit(self, job: Job) -> Job:
        """Append a new job's images to its owner's queue."""
        drawn = {image.index for image in job.images}
        missing = [(index, spec) for index, spec in enumerate(job.specs) if index not in drawn]
        leases = {index: Lease(job.id, index, self._epoch, owner=job.owner) for index, _ in missing}
        images = (QueuedImage(leases[index], spec) for index, spec in missing)
        self._queues[job.model].put(job.owner, images)
        self._jobs[job.id] = job
        if job.timestamps.deadline is not None:
            heappush(self._deadlines, (job.timestamps.deadline, job.id))
        return job

    def restore(self, job: Job) -> Job:
        """Put a job that an earlier queue did not end into this one; what is drawn of it stays.

        Its versions go on from higher than any that the earlier queue gave.
        """
        status = "running" if job.images else "queued"
        self.submit(with_warning(replace(job, status=status, version=self._epoch << 32), RESTARTED))
        restored = self._jobs[job.id]
        return self._put(restored, progress=progress_of(restored, self._updates))

    def grant(self, model: str, now: float) -> tuple[Lease, Job] | None:
        """Start the next image of a model; None if none waits that may run."""
        image = self._queues[model].take(self._may_run)
        if image is None:
            return None
        lease = image.lease
        self._running[lease.key] = lease
        self._running_of[image.owner] += 1
        self._rows[model] += image.spec.rows
        job = self._jobs[lease.job_id]
        times = job.timestamps if job.timestamps.started else replace(job.timestamps, started=now)
        job = replace(job, status="running", timestamps=times)
        return lease, self._put(job, queue=None, progress=progress_of(job, self._updates))

    def progress(self, lease: Lease, update: StepUpdate, preview: str | None = None) -> Job | None:
        """Take in the newest word on a picture; None if the lease was taken back."""
        if not self._holds(lease):
            return None
        self._updates[lease.key] = update
        job = self._jobs[lease.job_id]
        for name, end in update.cut.items():
            text = name.replace("_", " ")
            job = with_warning(job, f"The text encoder did not read the end of the {text}: “{end.strip()}”.")
        previews = {lease.index: preview} if preview else {}
        return self._put(job, progress=progress_of(job, self._updates, previews))

    def finish(self, lease: Lease, result: ImageResult, now: float) -> Job | None:
        """Take in a finished picture; the last one ends the job. None if the lease was taken back."""
        if not self._end(lease):
            return None
        job = self._jobs[lease.job_id]
        images = tuple(sorted((*job.images, result), key=lambda image: image.index))
        job = with_warning(replace(job, images=images), TILED if result.tiled else "")
        if len(images) == len(job.specs):
            times = replace(job.timestamps, ended=now)
            return self._put(job, status="succeeded", progress=None, timestamps=times)
        return self._put(job, progress=progress_of(job, self._updates))

    def fail(self, lease: Lease, error: DarkroomError, now: float) -> Job | None:
        """End the job of a picture that cannot be drawn, its other pictures too. None if the lease was taken back."""
        if not self._end(lease):
            return None
        return self.reject(lease.job_id, error, now)

    def lose(self, lease: Lease, now: float) -> Job | None:
        """A replica died: to the front of the line, or failed at the last attempt. None if the lease was taken back."""
        if not self._end(lease):
            return None
        if lease.attempt == MAX_ATTEMPTS:
            message = f"The replicas that drew this picture died {MAX_ATTEMPTS} times."
            return self._stop(lease.job_id, "failed", now, JobError(code=ReplicaLost.code, message=message))
        job = self._jobs[lease.job_id]
        again = replace(lease, attempt=lease.attempt + 1)
        self._queues[job.model].put_first(QueuedImage(again, job.specs[lease.index]))
        alone = not any((job.id, index) in self._running for index in range(len(job.specs)))
        status = "queued" if alone and not job.images else job.status
        job = with_warning(replace(job, status=status), LOST)
        return self._put(job, progress=progress_of(job, self._updates))

    def cancel(self, job_id: str, owner: str | None, now: float) -> Job:
        """End a job and take its leases back.

        Raises:
            NotFound: no such job.
            JobEnded: it has ended already.
        """
        job = self.job(job_id, owner)
        if job.ended:
            raise JobEnded(f"Job {job_id} has ended already: {job.status}.")
        return self._stop(job_id, "cancelled", now, None)

    def reject(self, job_id: str, error: DarkroomError, now: float) -> Job:
        """End a job that cannot be drawn here."""
        return self._stop(job_id, "failed", now, JobError(code=error.code, message=error.message, param=error.param))

    def expire(self, now: float) -> list[Job]:
        """End the jobs whose deadline has passed."""
        error = JobError(code=DeadlineExceeded.code, message="The job's time was over before it was done.")
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            job = self._jobs.get(heappop(self._deadlines)[1])
            if job is not None and not job.ended:
                expired.append(self._stop(job.id, "expired", now, error))
        return expired

    def forget(self, job_ids: Iterable[str]) -> None:
        """Know nothing any more of jobs that have ended, and whose results have expired."""
        for job_id in job_ids:
            self._jobs.pop(job_id, None)

    def estimate(self, forecast: QueueForecast) -> list[Job]:
        """Apply a forecast; return the jobs whose place or times changed enough to be sent."""
        changed = []
        for job_id, expected in forecast.jobs.items():
            job = self._jobs[job_id]
            if job.status == "queued":
                if place := place_of(job, expected, forecast, self._queues[job.model].jobs):
                    changed.append(self._put(job, queue=place))
            elif job.progress and (progress := with_end(job.progress, expected.end_s, forecast)):
                changed.append(self._put(job, progress=progress))
        return changed

    # -- inside

    def _put(self, job: Job, **changes: Any) -> Job:
        """Make a job with some changes the newest."""
        job = replace(job, version=job.version + 1, **changes)
        self._jobs[job.id] = job
        if job.ended:
            self._ended.append(job.id)
            if len(self._ended) > KEPT_JOBS:
                self._jobs.pop(self._ended.popleft(), None)
        return job

    def _holds(self, lease: Lease) -> bool:
        return self._running.get(lease.key) == lease

    def _end(self, lease: Lease) -> bool:
        """Take a lease back; False if that happened before."""
        if not self._holds(lease):
            return False
        del self._running[lease.key]
        self._updates.pop(lease.key, None)
        job = self._jobs[lease.job_id]
        self._running_of[job.owner] -= 1
        if not self._running_of[job.owner]:
            del self._running_of[job.owner]
        self._rows[job.model] -= job.specs[lease.index].rows
        return True

    def _may_run(self, owner: str) -> bool:
        most = self._limits.owner_running
        return most is None or self._running_of[owner] < most

    def _stop(self, job_id: str, status: Status, now: float, error: JobError | None) -> Job:
        """End a job as it stands: nothing of it waits or runs any more."""
        job = self._jobs[job_id]
        for index in range(len(job.specs)):
            if (lease := self._running.get((job_id, index))) is not None:
                self._end(lease)
        self._queues[job.model].remove(job_id, job.owner)
        times = replace(job.timestamps, ended=now)
        return self._put(job, status=status, error=error, queue=None, progress=None, timestamps=times)
