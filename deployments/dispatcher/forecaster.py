"""What was measured of the cluster, and the forecast of the queue that follows from it. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import accumulate, islice

from deployments.dispatcher.forecast import Estimate, Fleet, Size, Task, forecast, rows_in_flight
from deployments.dispatcher.lease import Lease, QueuedImage
from deployments.stages import DENOISER, TEXT_ENCODER, VAE
from models.denoiser.step_curve import StepCurve
from models.families.base import Segment
from models.spec import ImageSpec, StepUpdate

DECODE_S = 0.03  # until an image was measured
COLD_START_S = 30.0  # from a stage without replicas to one that works, until that was measured
SMOOTHING = 0.2  # weight of the newest measurement
HORIZON = 1000  # queued images that are simulated; beyond, the forecast is linear
TOLERANCE = 0.15  # relative error up to which an estimate is one number, not a range
INITIAL_ERROR = 0.5  # relative error, until some estimates were compared with what happened
MIN_JUDGED_S = 2.0  # shorter waits are not compared

Running = tuple[Lease, ImageSpec, StepUpdate | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueForecast:
    """When the jobs in the queue start and end. Seconds from the moment at which it was made."""

    made_at: float = 0.0  # on the clock that `forecast` was given
    places: Mapping[str, int] = field(default_factory=dict)  # queued job -> 1 for the next, counted in jobs
    jobs: Mapping[str, Estimate] = field(default_factory=dict)  # start of the first picture, end of the last
    starts: tuple[float, ...] = ()  # of the images near the front of the queue, in order
    cost: float = 0.0  # of everything in the queue
    pace_s: float = 0.0  # that a unit of cost takes
    drained_s: float = 0.0  # until everything in the queue is done
    relative_error: float = 0.0  # of estimates, as a rule
    cold_start_s: float = 0.0  # until a stage without replicas has one

    def upper_bound_s(self, expected_s: float) -> float | None:
        """Return the upper bound of an estimate; None if the estimate is good enough without."""
        if self.relative_error <= TOLERANCE and not self.cold_start_s:
            return None
        return expected_s * (1 + self.relative_error) + self.cold_start_s

    def drained_in_s(self, now: float, cost: float) -> float:
        """Return when everything will be done, if the queue has this cost by now: what came since counts."""
        return max(0.0, self.drained_s - (now - self.made_at) + self.pace_s * max(0.0, cost - self.cost))

    def room_in_s(self, now: float, images: int) -> float:
        """Return when so many images will have left the queue."""
        start = self.starts[min(images, len(self.starts)) - 1] if self.starts else 0.0
        return max(0.0, start - (now - self.made_at))


class Forecaster:
    """Measures what happens; `forecast` extrapolates it."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows  # of one forward, until a Denoiser has reported it
        self._curve = StepCurve()
        self._batch_rows: dict[Size, int] = {}  # rows that a forward may have
        self._decodes: dict[Size, float] = {}  # size -> seconds
        self.cost_s = 0.0  # that a unit of cost takes of one Denoiser, in full batches; 0 until one has worked
        self._replicas = 1  # of the denoiser
        self._cold_start_s = COLD_START_S
        self._asleep_since: float | None = None  # some stage that is needed has no replica
        self._awake_since = 0.0
        self._first: dict[str, tuple[float, float]] = {}  # job -> moment and start of its first forecast
        self._relative_error = INITIAL_ERROR

    @property
    def max_rows(self) -> int:
        """Rows that a forward may have."""
        return max(self._batch_rows.values(), default=self._max_rows)

    # -- measuring

    def measure_step(self, spec: ImageSpec, update: StepUpdate) -> None:
        """Measure how long a step takes at the size of its pass, and how many rows share it."""
        segment = _segment_at(spec, update.step)
        self._batch_rows[segment.width, segment.height] = update.most_rows
        self._curve.measure(update.batch_rows, segment.width * segment.height, update.step_s)

    def measure_decode(self, spec: ImageSpec, seconds: float, now: float) -> None:
        """Measure how long an image takes after its last step."""
        if now - seconds >= self._awake_since:
            known = self._decode_s(spec.size)
            self._decodes[spec.size] = known + SMOOTHING * (seconds - known)

    def observe_replicas(self, counts: Mapping[str, int], running: Sequence[Running], now: float) -> None:
        """Note how many replicas each stage has; measure the cold start of a stage that is needed."""
        self._replicas = max(1, counts.get(DENOISER.key, 1))
        asleep = any(not counts.get(stage, 1) for stage in _needed(running))
        if asleep and self._asleep_since is None:
            self._asleep_since = now
        if not asleep and self._asleep_since is not None:
            self._cold_start_s = now - self._asleep_since
            self._awake_since = now
            self._asleep_since = None

    def reset(self) -> None:
        """Forget a cold start and the Denoisers' rows, as there is no work: what has no replica now is not starting."""
        self._asleep_since = None
        self._max_rows, self._batch_rows = self.max_rows, {}

    def started(self, job_id: str, now: float) -> float | None:
        """Compare the start of a job with its first forecast; return the relative error, None if the wait was short."""
        made_at, expected = self._first.pop(job_id, (now, now))
        if max(now, expected) - made_at < MIN_JUDGED_S:
            return None
        error = abs(now - expected) / max(expected - made_at, MIN_JUDGED_S)
        self._relative_error += SMOOTHING * (error - self._relative_error)
        return error

    # -- forecasting

    def forecast(
        self,
        running: Sequence[Running],
        queued: Iterator[QueuedImage],
        cost: float,
        wanted: Mapping[str, int],
        now: float,
    ) -> QueueForecast:
        """Return the forecast of the running and the queued images; the latter have the sum of costs `cost`.

        Of jobs far from the front it has only those that are `wanted`: job -> how many of its images are queued. It
        does not account for limits on an owner's running images.
        """
        near = list(islice(queued, HORIZON))
        fleet = self._fleet(now)
        tasks = [(lease.job_id, self._task(spec, update.step if update else 0)) for lease, spec, update in running]
        tasks += [(one.lease.job_id, self._task(one.spec)) for one in near]
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
        return QueueForecast(
            made_at=now,
            places=places,
            jobs=jobs,
            starts=starts,
            cost=cost,
            pace_s=pace_s,
            drained_s=end + pace_s * max(0.0, cost - near_cost),
            relative_error=self._relative_error,
            cold_start_s=fleet.cold_start_s,
        )

    def _fleet(self, now: float) -> Fleet:
        cold_start_s = 0.0 if self._asleep_since is None else max(1.0, self._cold_start_s - (now - self._asleep_since))
        return Fleet(
            replicas=self._replicas,
            rows_in_flight=rows_in_flight(self.max_rows, self._replicas),
            batch_rows=lambda size: self._batch_rows.get(size, self.max_rows),
            step_s=lambda rows, size: self._curve.step_s(rows, size[0] * size[1]),
            decode_s=self._decode_s,
            cold_start_s=cold_start_s,
        )

    def _task(self, spec: ImageSpec, done: int = 0) -> Task:
        """Return what is left of an image after `done` model calls."""
        task: Task | None = None
        end = spec.model_calls
        for segment in reversed(spec.segments):
            size, begin = (segment.width, segment.height), end - segment.model_calls
            pause_s = 0.0 if task is None else self._upscale_s(spec, size)
            task = Task(segment.rows, size, min(segment.model_calls, end - done), then=task, pause_s=pause_s)
            if done > begin:
                break
            end = begin
        assert task is not None  # an image has a segment
        return task

    def _decode_s(self, size: Size) -> float:
        """Return the seconds of decoding; of a size that was not measured, by its pixels from the nearest one."""
        if size in self._decodes:
            return self._decodes[size]
        pixels = {known: known[0] * known[1] for known in self._decodes}
        nearest = min(pixels, key=lambda known: abs(pixels[known] - size[0] * size[1]), default=None)
        return DECODE_S if nearest is None else self._decodes[nearest] * size[0] * size[1] / pixels[nearest]

    def _upscale_s(self, spec: ImageSpec, size: Size) -> float:
        """Return the seconds from a pass of a size to the next one: encoding takes no longer than decoding."""
        if spec.hires is None or spec.hires.upscaler == "latent":
            return 0.0
        return self._decode_s(size) + self._decode_s(spec.size)

    def _remember(self, jobs: Mapping[str, Estimate], waiting: Set[str], now: float) -> None:
        """Keep the first forecast of each job that only waits; forget the others."""
        self._first = {
            job_id: self._first.get(job_id) or (now, now + jobs[job_id].start_s) for job_id in waiting & jobs.keys()
        }


def _needed(running: Iterable[Running]) -> set[str]:
    """Return the stages that images wait for."""
    needed = set[str]()
    for _, spec, update in running:
        if update is None:
            needed |= {TEXT_ENCODER.key, DENOISER.key}
        else:
            if update.step < update.steps:
                needed.add(DENOISER.key)
            if update.step in accumulate(segment.model_calls for segment in spec.segments):
                needed.add(VAE.key)
    return needed


def _segment_at(spec: ImageSpec, step: int) -> Segment:
    """Return the segment of an image that a step belongs to, counted from 1."""
    *others, last = spec.segments
    for segment in others:
        if step <= segment.model_calls:
            return segment
        step -= segment.model_calls
    return last


def _pace_s(specs: Sequence[ImageSpec], fleet: Fleet) -> float:
    """Return the seconds that a unit of cost takes if every batch is full, for the images' own mixture."""
    seconds = 0.0
    for width, height, segment_rows, model_calls in (segment for spec in specs for segment in spec.segments):
        rows = fleet.batch_rows((width, height))
        seconds += model_calls * segment_rows / rows * fleet.step_s(rows, (width, height)) / fleet.replicas
    return seconds / sum(spec.cost for spec in specs) if specs else 0.0


def _until_seen(queued: Iterator[QueuedImage], wanted: Counter[str]) -> Iterator[QueuedImage]:
    """Iterate until so many images of these jobs were passed."""
    left = wanted.total()
    while left and (one := next(queued, None)) is not None:
        left -= one.lease.job_id in wanted
        yield one


def _merge(jobs: dict[str, Estimate], job_id: str, estimate: Estimate) -> None:
    known = jobs.get(job_id, estimate)
    jobs[job_id] = Estimate(min(known.start_s, estimate.start_s), max(known.end_s, estimate.end_s))
