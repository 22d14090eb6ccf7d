"""What has been measured of the cluster so far, and what follows from it for the jobs in the queue. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice

from deployments.dispatcher.forecast import Estimate, Fleet, Size, Task, forecast, rows_in_flight
from deployments.dispatcher.lease import Lease, QueuedImage
from deployments.stages import DENOISER, TEXT_ENCODER, VAE
from models.denoiser.step_curve import StepCurve
from models.spec import ImageSpec, StepUpdate

DECODE_S = 0.03  # until a picture has been measured
WAKING_S = 30.0  # from a stage without a replica to one that draws, until that has been measured
SMOOTHING = 0.2  # weight of the newest measurement
HORIZON = 1000  # pictures in line that are simulated; those beyond are laid end to end
SURE = 0.15  # how far off estimates may be, relatively, and still be told as one number
UNKNOWN = 0.5  # how far off they are, until some have been held against the clock
MATTERS_S = 2.0  # shorter waits say nothing of how far off estimates are

Running = tuple[Lease, ImageSpec, StepUpdate | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the jobs in the queue can expect. Seconds from the moment when it was made."""

    made_at: float = 0.0  # on the clock that `outlook` was given
    places: Mapping[str, int] = field(default_factory=dict)  # job in line -> 1 for the next, counted in jobs
    jobs: Mapping[str, Estimate] = field(default_factory=dict)  # start of the first picture, end of the last
    starts: tuple[float, ...] = ()  # of the pictures near the front of the line, in order
    cost: float = 0.0  # of everything in line
    pace_s: float = 0.0  # that a unit of cost takes
    drained_s: float = 0.0  # until everything in the queue is done
    unsure: float = 0.0  # how far off estimates are, relatively, as a rule
    awake_in_s: float = 0.0  # until a stage that sleeps has a replica

    def most_s(self, expected_s: float) -> float | None:
        """Return how long something may take that is expected to take so long; None where that is sure enough."""
        if self.unsure <= SURE and not self.awake_in_s:
            return None
        return expected_s * (1 + self.unsure) + self.awake_in_s

    def drained_in_s(self, now: float, cost: float) -> float:
        """Return when everything will be done, if by now the line has this cost: what came since counts."""
        return max(0.0, self.drained_s - (now - self.made_at) + self.pace_s * max(0.0, cost - self.cost))

    def room_in_s(self, now: float, pictures: int) -> float:
        """Return when so many pictures will have left the line."""
        start = self.starts[min(pictures, len(self.starts)) - 1] if self.starts else 0.0
        return max(0.0, start - (now - self.made_at))


class Forecaster:
    """Learns from what happens; `outlook` tells what will."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows  # of one forward, until a Denoiser has said
        self._curve = StepCurve()
        self._batch_rows: dict[Size, int] = {}  # rows that a forward may have
        self._decode_s = DECODE_S
        self.cost_s = 0.0  # that a unit of cost takes of one Denoiser, in full batches; 0 until one has worked
        self._replicas = 1  # of the denoiser
        self._waking_s = WAKING_S
        self._asleep_since: float | None = None  # some stage that is needed has no replica
        self._awake_since = 0.0
        self._told: dict[str, tuple[float, float]] = {}  # job -> when it was first told a time, and the moment foretold
        self._unsure = UNKNOWN

    @property
    def max_rows(self) -> int:
        """Rows that a forward may have."""
        return max(self._batch_rows.values(), default=self._max_rows)

    # -- learning

    def measure_step(self, spec: ImageSpec, update: StepUpdate) -> None:
        """Learn how long a step takes, and how many rows share it."""
        self._batch_rows[spec.width, spec.height] = update.most_rows
        self._curve.measure(update.batch_rows, spec.width * spec.height, update.step_s)

    def measure_decode(self, seconds: float, now: float) -> None:
        """Learn how long a picture takes after its last step."""
        if now - seconds >= self._awake_since:
            self._decode_s += SMOOTHING * (seconds - self._decode_s)

    def see_replicas(self, counts: Mapping[str, int], running: Sequence[Running], now: float) -> None:
        """Take in how many replicas each stage has; learn how long one takes to wake that is needed."""
        self._replicas = max(1, counts.get(DENOISER.key, 1))
        asleep = any(not counts.get(stage, 1) for stage in _needed(running))
        if asleep and self._asleep_since is None:
            self._asleep_since = now
        if not asleep and self._asleep_since is not None:
            self._waking_s = now - self._asleep_since
            self._awake_since = now
            self._asleep_since = None

    def rest(self) -> None:
        """Take in that there is no work: what sleeps now is not waking, and Denoisers may come back otherwise."""
        self._asleep_since = None
        self._max_rows, self._batch_rows = self.max_rows, {}

    def started(self, job_id: str, now: float) -> float | None:
        """Hold what a job was told first against the clock; return how far off that was, relatively, if it matters."""
        told_at, foretold = self._told.pop(job_id, (now, now))
        if max(now, foretold) - told_at < MATTERS_S:
            return None
        off = abs(now - foretold) / max(foretold - told_at, MATTERS_S)
        self._unsure += SMOOTHING * (off - self._unsure)
        return off

    # -- telling

    def outlook(
        self,
        running: Sequence[Running],
        queued: Iterator[QueuedImage],
        cost: float,
        wanted: Mapping[str, int],
        now: float,
    ) -> Outlook:
        """Return what to expect of the pictures that run and of those in line, whose cost in all is `cost`.

        Of jobs far from the front only those that are `wanted` are told anything: job -> how many of its pictures are
        in line. That an owner may be kept from running more is not foreseen.
        """
        near = list(islice(queued, HORIZON))
        fleet = self._fleet(now)
        tasks = [(lease.job_id, _task(spec, update.step if update else 0)) for lease, spec, update in running]
        tasks += [(one.lease.job_id, _task(one.spec)) for one in near]
        estimates = forecast([task for _, task in tasks], fleet)
        starts = tuple(estimate.start_s for estimate in estimates[len(tasks) - len(near) :])
        jobs: dict[str, Estimate] = {}
        for (job_id, _), estimate in zip(tasks, estimates, strict=True):
            _merge(jobs, job_id, estimate)
        places: dict[str, int] = {}
        for one in near:
            places.setdefault(one.lease.job_id, len(places) + 1)
        pace_s = _pace_s([one.spec for one in near] or [spec for _, spec, _ in running], fleet)
        self.cost_s = pace_s * fleet.replicas or self.cost_s
        near_cost = start_cost = sum(one.spec.cost for one in near)
        for one in _until_seen(queued, Counter(wanted) - Counter(one.lease.job_id for one in near)):
            places.setdefault(one.lease.job_id, len(places) + 1)
            if one.lease.job_id in wanted:
                start = starts[-1] + pace_s * (start_cost - near_cost)
                _merge(jobs, one.lease.job_id, Estimate(start, start + pace_s * one.spec.cost))
            start_cost += one.spec.cost
        self._remember(jobs, places.keys() - {lease.job_id for lease, _, _ in running}, now)
        end = max((estimate.end_s for estimate in estimates), default=0.0)
        return Outlook(
            made_at=now,
            places=places,
            jobs=jobs,
            starts=starts,
            cost=cost,
            pace_s=pace_s,
            drained_s=end + pace_s * max(0.0, cost - near_cost),
            unsure=self._unsure,
            awake_in_s=fleet.awake_in_s,
        )

    def _fleet(self, now: float) -> Fleet:
        waking_s = 0.0 if self._asleep_since is None else max(1.0, self._waking_s - (now - self._asleep_since))
        return Fleet(
            replicas=self._replicas,
            rows_in_flight=rows_in_flight(self.max_rows, self._replicas),
            batch_rows=lambda size: self._batch_rows.get(size, self.max_rows),
            step_s=lambda rows, size: self._curve.step_s(rows, size[0] * size[1]),
            decode_s=self._decode_s,
            awake_in_s=waking_s,
        )

    def _remember(self, jobs: Mapping[str, Estimate], waiting: Set[str], now: float) -> None:
        """Keep what each job was told first that only waits; forget the others."""
        self._told = {
            job_id: self._told.get(job_id) or (now, now + jobs[job_id].start_s) for job_id in waiting & jobs.keys()
        }


def _needed(running: Iterable[Running]) -> set[str]:
    """Return the stages that a picture waits for."""
    needed = set[str]()
    for _, _, update in running:
        if update is None:
            needed |= {TEXT_ENCODER.key, DENOISER.key}
        else:
            needed.add((VAE if update.step == update.steps else DENOISER).key)
    return needed


def _task(spec: ImageSpec, done: int = 0) -> Task:
    return Task(spec.rows, (spec.width, spec.height), spec.model_calls - done)


def _pace_s(specs: Sequence[ImageSpec], fleet: Fleet) -> float:
    """Return the seconds that a unit of cost takes where every batch is full, by the pictures' own mixture."""
    seconds = 0.0
    for task in map(_task, specs):
        rows = fleet.batch_rows(task.size)
        seconds += task.steps * task.rows / rows * fleet.step_s(rows, task.size) / fleet.replicas
    return seconds / sum(spec.cost for spec in specs) if specs else 0.0


def _until_seen(queued: Iterator[QueuedImage], wanted: Counter[str]) -> Iterator[QueuedImage]:
    """Walk on until so many pictures of each of these jobs have come by."""
    left = wanted.total()
    while left and (one := next(queued, None)) is not None:
        left -= one.lease.job_id in wanted
        yield one


def _merge(jobs: dict[str, Estimate], job_id: str, estimate: Estimate) -> None:
    known = jobs.get(job_id, estimate)
    jobs[job_id] = Estimate(min(known.start_s, estimate.start_s), max(known.end_s, estimate.end_s))
