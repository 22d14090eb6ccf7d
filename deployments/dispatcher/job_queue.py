"""The cluster's one queue, pure: jobs and leases. Time is handed in, changes are handed back.

Each model has a line of its own, fair between owners, so that one that is busy holds up no other's pictures.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from deployments.dispatcher.fair_line import FairLine
from deployments.dispatcher.forecaster import Outlook
from deployments.dispatcher.lease import Lease, Place, Waiting
from deployments.errors import DeadlineExceeded, JobEnded, NotFound, OwnLineFull, QueueFull, ReplicaLost
from deployments.schema import ImageResult, Job, JobError, Progress, QueuePlace, Status
from deployments.stages import DENOISER, TEXT_ENCODER, VAE
from models.errors import DarkroomError, InvalidRequest
from models.spec import ImageSpec, StepUpdate

MAX_ATTEMPTS = 3
KEPT_JOBS = 1000  # that have ended; beyond, the oldest are on disk only
LOST = "A worker stopped; the picture restarted at the front of the line."
RESTARTED = "The service restarted; the job kept its place."
TILED = "An image did not fit into memory whole: it was decoded in tiles, whose seams may show."


@dataclass(frozen=True, slots=True)
class Limits:
    """How many pictures may wait and run, in all and of one owner; None is no limit."""

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
        self._lines: defaultdict[str, FairLine] = defaultdict(FairLine)  # by model
        self._deadlines: list[tuple[float, str]] = []  # a heap, of jobs that have ended too
        self._running: dict[Place, Lease] = {}
        self._running_of: Counter[str] = Counter()  # owner -> pictures in the making
        self._rows: Counter[str] = Counter()  # model -> rows of its pictures in the making
        self._updates: dict[Place, StepUpdate] = {}

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
        """Pictures in line, for all models."""
        return sum(map(len, self._lines.values()))

    @property
    def owners_waiting(self) -> int:
        """Owners with pictures in line."""
        return len(set[str]().union(*(line.owners for line in self._lines.values())))

    def waiting_for(self, model: str) -> int:
        """Pictures in line for a model."""
        return len(self._lines[model])

    def rows(self, model: str) -> int:
        """Rows of a model's pictures in the making."""
        return self._rows[model]

    @property
    def running(self) -> list[tuple[Lease, ImageSpec, StepUpdate | None]]:
        """Pictures in the making, with the newest word on each."""
        return [
            (lease, self._jobs[lease.job_id].specs[lease.index], self._updates.get(place))
            for place, lease in self._running.items()
        ]

    def running_of(self, model: str) -> list[tuple[Lease, ImageSpec, StepUpdate | None]]:
        """A model's pictures in the making, with the newest word on each."""
        return [one for one in self.running if one[1].model == model]

    def waiting_of(self, owner: str) -> int:
        """An owner's pictures in line."""
        return sum(line.of(owner) for line in self._lines.values())

    def waiting_cost(self, model: str) -> float:
        """Work in line for a model, in `ImageSpec.cost`."""
        return self._lines[model].cost

    def in_line(self, job_id: str) -> int:
        """How many of a job's pictures are in line."""
        return self._lines[self._jobs[job_id].model].of_job(job_id)

    def knows(self, job_id: str) -> bool:
        """Whether a job is here, and has perhaps ended."""
        return job_id in self._jobs

    def is_open(self, job_id: str) -> bool:
        """Whether a job is here and has not ended."""
        return job_id in self._jobs and not self._jobs[job_id].ended

    def line(self, model: str) -> Iterator[Waiting]:
        """Walk the pictures in line for a model, in the order in which they will be granted if nobody else comes."""
        return iter(self._lines[model])

    # -- changing

    def check_room(
        self,
        owner: str,
        pictures: int,
        retry_after_s: Callable[[int], int] = lambda _: 1,
        own_most: int | None = None,
    ) -> None:
        """See whether there is room for an owner's pictures; `retry_after_s` says when so many will have left the line,
        `own_most` how many of this owner may wait, if that is less than of any owner.

        Raises:
            QueueFull: there is not in the line; OwnLineFull: not for this owner.
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
            raise QueueFull(f"The line is full ({most}). Nothing was queued.", retry_after_s(over))
        if owner_most is not None and self.waiting_of(owner) + pictures > owner_most:
            message = f"At most {owner_most} of your pictures may wait at a time. Nothing was queued."
            raise OwnLineFull(message, retry_after_s(1))

    def submit(self, job: Job) -> Job:
        """Put a new job's pictures at the end of its owner's line."""
        drawn = {image.index for image in job.images}
        missing = [(index, spec) for index, spec in enumerate(job.specs) if index not in drawn]
        self._lines[job.model].put(
            job.owner, (Waiting(Lease(job.id, index, self._epoch), job.owner, spec) for index, spec in missing)
        )
        self._jobs[job.id] = job
        if job.timestamps.deadline is not None:
            heappush(self._deadlines, (job.timestamps.deadline, job.id))
        return job

    def restore(self, job: Job) -> Job:
        """Put a job that an earlier queue did not end into this one; what is drawn of it stays.

        Its versions go on from higher than any that the earlier queue gave.
        """
        status = "running" if job.images else "queued"
        self.submit(_warned(replace(job, status=status, version=self._epoch << 32), RESTARTED))
        return self._put(self._with_progress(self._jobs[job.id]))

    def grant(self, model: str, now: float) -> tuple[Lease, Job] | None:
        """Start the next picture of a model, or return None where none waits that may run."""
        waiting = self._lines[model].take(self._may_run)
        if waiting is None:
            return None
        lease = waiting.lease
        self._running[lease.place] = lease
        self._running_of[waiting.owner] += 1
        self._rows[model] += waiting.spec.rows
        job = self._jobs[lease.job_id]
        times = job.timestamps if job.timestamps.started else replace(job.timestamps, started=now)
        job = self._with_progress(replace(job, status="running", timestamps=times))
        return lease, self._put(replace(job, queue=None))

    def progress(self, lease: Lease, update: StepUpdate, preview: str | None = None) -> Job | None:
        """Take in the newest word on a picture; None if the lease was taken back."""
        if not self._holds(lease):
            return None
        self._updates[lease.place] = update
        job = self._jobs[lease.job_id]
        warning = f"The text encoder did not read the end of the prompt: “{update.cut.strip()}”." if update.cut else ""
        job = _warned(job, warning)
        return self._put(self._with_progress(job, {lease.index: preview} if preview else None))

    def finish(self, lease: Lease, result: ImageResult, now: float) -> Job | None:
        """Take in a finished picture; the last one ends the job. None if the lease was taken back."""
        if not self._end(lease):
            return None
        job = self._jobs[lease.job_id]
        images = tuple(sorted((*job.images, result), key=lambda image: image.index))
        job = _warned(replace(job, images=images), TILED if result.tiled else "")
        if len(images) == len(job.specs):
            times = replace(job.timestamps, ended=now)
            return self._put(replace(job, status="succeeded", progress=None, timestamps=times))
        return self._put(self._with_progress(job))

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
        self._lines[job.model].put_first(Waiting(again, job.owner, job.specs[lease.index]))
        alone = not any((job.id, index) in self._running for index in range(len(job.specs)))
        status = "queued" if alone and not job.images else job.status
        return self._put(self._with_progress(_warned(replace(job, status=status), LOST)))

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
        return self._stop(job_id, "failed", now, JobError(code=error.code, message=error.message))

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

    def estimate(self, outlook: Outlook) -> list[Job]:
        """Take in what is to be expected; return the jobs whose place or time changed enough to be worth saying."""
        changed = []
        for job_id, expected in outlook.jobs.items():
            job = self._jobs[job_id]
            if job.status == "queued":
                place = QueuePlace(
                    position=outlook.places[job_id],
                    size=self._lines[job.model].jobs,
                    eta_s=expected.start_s,
                    eta_most_s=outlook.most_s(expected.start_s),
                    end_eta_s=expected.end_s,
                )
                if job.queue is None or _differs(job.queue, place):
                    changed.append(self._put(replace(job, queue=place)))
            elif job.progress and _moved(job.progress.eta_s, expected.end_s):
                most_s = outlook.most_s(expected.end_s)
                progress = replace(job.progress, eta_s=expected.end_s, eta_most_s=most_s)
                changed.append(self._put(replace(job, progress=progress)))
        return changed

    # -- inside

    def _put(self, job: Job) -> Job:
        job = replace(job, version=job.version + 1)
        self._jobs[job.id] = job
        if job.ended:
            self._ended.append(job.id)
            if len(self._ended) > KEPT_JOBS:
                self._jobs.pop(self._ended.popleft(), None)
        return job

    def _holds(self, lease: Lease) -> bool:
        return self._running.get(lease.place) == lease

    def _end(self, lease: Lease) -> bool:
        """Take a lease back; False if that happened before."""
        if not self._holds(lease):
            return False
        del self._running[lease.place]
        self._updates.pop(lease.place, None)
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
        self._lines[job.model].remove(job_id, job.owner)
        times = replace(job.timestamps, ended=now)
        return self._put(replace(job, status=status, error=error, queue=None, progress=None, timestamps=times))

    def _with_progress(self, job: Job, previews: dict[int, str] | None = None) -> Job:
        """Sum the steps of a job's pictures; its stage is that of the picture that is furthest behind."""
        if job.status != "running":
            return replace(job, progress=None)
        done = {image.index for image in job.images}
        updates = {i: self._updates.get((job.id, i)) for i in range(len(job.specs)) if i not in done}
        steps_of = [update.steps if update else job.specs[i].model_calls for i, update in updates.items()]
        finished = sum(job.specs[i].model_calls for i in done)
        started = [update for update in updates.values() if update]
        decoding = len(started) == len(updates) and all(update.step == update.steps for update in started)
        shown = (job.progress.previews if job.progress else {}) | (previews or {})
        foretold = job.queue.end_eta_s if job.queue else 0.0
        progress = Progress(
            stage=(VAE if decoding else DENOISER if started else TEXT_ENCODER).phase,
            step=finished + sum(update.step for update in started),
            steps=finished + sum(steps_of),
            eta_s=job.progress.eta_s if job.progress else foretold,
            eta_most_s=job.progress.eta_most_s if job.progress else None,
            batch_rows=max((update.batch_rows for update in started), default=0),
            batch_images=max((update.batch_images for update in started), default=0),
            previews={i: preview for i, preview in shown.items() if i not in done},
        )
        return replace(job, progress=progress)


def _warned(job: Job, warning: str) -> Job:
    """Return a job with one more warning, if there is one and it does not have it yet."""
    if not warning or warning in job.warnings:
        return job
    return replace(job, warnings=(*job.warnings, warning))


def _differs(old: QueuePlace, new: QueuePlace) -> bool:
    place_differs = (old.position, old.size) != (new.position, new.size)
    return place_differs or _moved(old.eta_s, new.eta_s) or (old.eta_most_s is None) != (new.eta_most_s is None)


def _moved(old_s: float, new_s: float) -> bool:
    """Whether an estimate differs by more than a fifth of a second and a fiftieth."""
    return abs(new_s - old_s) > max(0.2, 0.02 * old_s)
