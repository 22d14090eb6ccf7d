"""The cluster's one queue, pure: jobs, leases and a fair order. Time is handed in, changes are handed back.

Fair between owners: the next picture is one of the owner who has had the least work so far (a virtual counter in
`ImageSpec.cost`; an owner who comes, or comes back, starts no lower than the one served last stood: start-time fair
queueing, Goyal et al. 1996). Within an owner: first come, first served.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from deployments.dispatcher.forecast import Estimate
from deployments.schema import ImageResult, Job, JobError, Progress, QueuePlace, Status
from models.errors import DarkroomError, JobEnded, NotFound, QueueFull, ReplicaLost
from models.spec import ImageSpec, StepUpdate

MAX_ATTEMPTS = 3
KEPT_JOBS = 1000  # beyond that the oldest that have ended are forgotten


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to draw one picture of a job; `attempt` is the fence against doubles."""

    job_id: str
    index: int
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """A picture in line."""

    lease: Lease
    owner: str
    spec: ImageSpec


class JobQueue:
    """Jobs from submission to their end."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._jobs: dict[str, Job] = {}
        self._lines: dict[str, deque[Lease]] = {}  # owner -> pictures in line
        self._served: dict[str, float] = {}  # owner -> virtual counter
        self._clock = 0.0  # the counter of the owner served last
        self._urgent: deque[Lease] = deque()  # pictures that lost their replica
        self._running: dict[tuple[str, int], Lease] = {}
        self._updates: dict[tuple[str, int], StepUpdate] = {}

    # -- reading

    def job(self, job_id: str, owner: str | None = None) -> Job:
        """Return a job; somebody else's does not exist.

        Raises:
            NotFound: no such job.
        """
        job = self._jobs.get(job_id)
        if job is None or (owner is not None and job.owner != owner):
            raise NotFound(f"There is no job {job_id}.")
        return job

    def jobs(self, owner: str) -> list[Job]:
        """Return an owner's jobs, newest first."""
        return [job for job in reversed(self._jobs.values()) if job.owner == owner]

    @property
    def waiting(self) -> int:
        """Pictures in line."""
        return len(self._urgent) + sum(map(len, self._lines.values()))

    @property
    def running(self) -> list[tuple[Lease, ImageSpec, StepUpdate | None]]:
        """Pictures in the making, with the newest word on each."""
        return [
            (lease, self._jobs[lease.job_id].specs[lease.index], self._updates.get(place))
            for place, lease in self._running.items()
        ]

    def line(self) -> Iterator[Waiting]:
        """Walk the pictures in line, in the order in which they will be granted if nobody else comes."""
        yield from (self._waiting(lease) for lease in self._urgent)
        lines = {owner: iter(line) for owner, line in self._lines.items()}
        heads = {owner: next(line) for owner, line in lines.items()}
        served = dict(self._served)
        while heads:
            owner = min(heads, key=lambda name: served[name])
            waiting = self._waiting(heads[owner])
            served[owner] += waiting.spec.cost
            following = next(lines[owner], None)
            if following is None:
                del heads[owner]
            else:
                heads[owner] = following
            yield waiting

    # -- changing

    def submit(self, job: Job, retry_after_s: int = 1) -> Job:
        """Put a new job's pictures at the end of its owner's line.

        Raises:
            QueueFull: the line has no room for all of them; none was queued.
        """
        if self.waiting + len(job.specs) > self._max_waiting:
            raise QueueFull(f"The line is full ({self._max_waiting}). Nothing was queued.", retry_after_s)
        if job.owner not in self._lines:
            self._lines[job.owner] = deque()
            self._served[job.owner] = max(self._served.get(job.owner, 0.0), self._clock)
        self._lines[job.owner].extend(Lease(job.id, index) for index in range(len(job.specs)))
        self._jobs[job.id] = job
        self._forget_old()
        return job

    def grant(self, now: float) -> tuple[Lease, Job] | None:
        """Start the next picture, or return None where none waits."""
        waiting = next(self.line(), None)
        if waiting is None:
            return None
        lease, owner = waiting.lease, waiting.owner
        if self._urgent:
            self._urgent.popleft()
        else:
            self._clock = self._served[owner]
            self._served[owner] += waiting.spec.cost
            self._lines[owner].popleft()
            self._forget_idle(owner)
        self._running[lease.job_id, lease.index] = lease
        job = self._jobs[lease.job_id]
        times = job.timestamps if job.timestamps.started else replace(job.timestamps, started=now)
        return lease, self._put(self._with_progress(replace(job, status="running", queue=None, timestamps=times)))

    def progress(self, lease: Lease, update: StepUpdate, preview: str | None = None) -> Job | None:
        """Take in the newest word on a picture; None if the lease was taken back."""
        if not self._holds(lease):
            return None
        self._updates[lease.job_id, lease.index] = update
        job = self._jobs[lease.job_id]
        warning = f"The text encoder did not read the end of the prompt: “{update.cut.strip()}”." if update.cut else ""
        if warning and warning not in job.warnings:
            job = replace(job, warnings=(*job.warnings, warning))
        return self._put(self._with_progress(job, {lease.index: preview} if preview else None))

    def finish(self, lease: Lease, result: ImageResult, now: float) -> Job | None:
        """Take in a finished picture; the last one ends the job. None if the lease was taken back."""
        if not self._end(lease):
            return None
        job = self._jobs[lease.job_id]
        images = tuple(sorted((*job.images, result), key=lambda image: image.index))
        job = replace(job, images=images)
        if len(images) == len(job.specs):
            times = replace(job.timestamps, ended=now)
            return self._put(replace(job, status="succeeded", progress=None, timestamps=times))
        return self._put(self._with_progress(job))

    def fail(self, lease: Lease, error: DarkroomError, now: float) -> Job | None:
        """End the job of a picture that cannot be drawn, its other pictures too. None if the lease was taken back."""
        if not self._end(lease):
            return None
        return self._stop(lease.job_id, "failed", now, JobError(code=error.code, message=error.message))

    def lose(self, lease: Lease, now: float) -> Job | None:
        """A replica died: to the front of the line, or failed at the last attempt. None if the lease was taken back."""
        if not self._end(lease):
            return None
        if lease.attempt == MAX_ATTEMPTS:
            message = f"The replicas that drew this picture died {MAX_ATTEMPTS} times."
            return self._stop(lease.job_id, "failed", now, JobError(code=ReplicaLost.code, message=message))
        self._urgent.appendleft(replace(lease, attempt=lease.attempt + 1))
        job = self._jobs[lease.job_id]
        warning = "A worker stopped; the picture restarted at the front of the line."
        warnings = job.warnings if warning in job.warnings else (*job.warnings, warning)
        alone = not any(job_id == job.id for job_id, _ in self._running)
        status = "queued" if alone and not job.images else job.status
        return self._put(self._with_progress(replace(job, status=status, warnings=warnings)))

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

    def estimate(self, estimates: Mapping[tuple[str, int], Estimate]) -> list[Job]:
        """Take in a forecast; return the jobs whose place or time changed enough to be worth saying."""
        changed = []
        ahead: dict[str, int] = {}
        for waiting in self.line():
            ahead.setdefault(waiting.lease.job_id, len(ahead) + 1)
        for job in [job for job in self._jobs.values() if not job.ended]:
            parts = [estimates[job.id, i] for i in range(len(job.specs)) if (job.id, i) in estimates]
            if not parts:
                continue
            if job.status == "queued":
                place = QueuePlace(position=ahead[job.id], size=len(ahead), eta_s=min(part.start_s for part in parts))
                if job.queue is None or _differs(job.queue, place):
                    changed.append(self._put(replace(job, queue=place)))
            elif job.progress and _moved(job.progress.eta_s, eta_s := max(part.end_s for part in parts)):
                changed.append(self._put(replace(job, progress=replace(job.progress, eta_s=eta_s))))
        return changed

    # -- inside

    def _waiting(self, lease: Lease) -> Waiting:
        job = self._jobs[lease.job_id]
        return Waiting(lease, job.owner, job.specs[lease.index])

    def _put(self, job: Job) -> Job:
        job = replace(job, version=job.version + 1)
        self._jobs[job.id] = job
        return job

    def _holds(self, lease: Lease) -> bool:
        return self._running.get((lease.job_id, lease.index)) == lease

    def _end(self, lease: Lease) -> bool:
        """Take a lease back; False if that happened before."""
        if not self._holds(lease):
            return False
        place = (lease.job_id, lease.index)
        del self._running[place]
        self._updates.pop(place, None)
        return True

    def _forget_old(self) -> None:
        """Drop the oldest jobs that have ended, down to `KEPT_JOBS`."""
        ended = [job.id for job in self._jobs.values() if job.ended]
        for job_id in ended[: max(0, len(self._jobs) - KEPT_JOBS)]:
            del self._jobs[job_id]

    def _forget_idle(self, owner: str) -> None:
        if not self._lines[owner]:
            del self._lines[owner]
        if not self._lines:  # nobody waits: all are equal again
            self._served, self._clock = {}, 0.0

    def _stop(self, job_id: str, status: Status, now: float, error: JobError | None) -> Job:
        """End a job as it stands: nothing of it waits or runs any more."""
        for lease in [held for held in self._running.values() if held.job_id == job_id]:
            self._end(lease)
        self._urgent = deque(lease for lease in self._urgent if lease.job_id != job_id)
        job = self._jobs[job_id]
        if job.owner in self._lines:
            kept = deque(lease for lease in self._lines[job.owner] if lease.job_id != job_id)
            self._lines[job.owner] = kept
            self._forget_idle(job.owner)
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
        progress = Progress(
            stage="decode" if decoding else "denoise" if started else "encode",
            step=finished + sum(update.step for update in started),
            steps=finished + sum(steps_of),
            eta_s=job.progress.eta_s if job.progress else 0.0,
            batch_rows=max((update.batch_rows for update in started), default=0),
            previews={i: preview for i, preview in shown.items() if i not in done},
        )
        return replace(job, progress=progress)


def _differs(old: QueuePlace, new: QueuePlace) -> bool:
    return (old.position, old.size) != (new.position, new.size) or _moved(old.eta_s, new.eta_s)


def _moved(old_s: float, new_s: float) -> bool:
    """Whether an estimate differs by more than half a second and a tenth."""
    return abs(new_s - old_s) > max(0.5, 0.1 * old_s)
