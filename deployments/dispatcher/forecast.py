"""A simulation of the queue over the measured step curve. Pure."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from math import inf

Size = tuple[int, int]  # width and height, in pixels: images of one size share forwards


@dataclass(frozen=True, slots=True)
class Task:
    """An image as the forecast sees it, or a pass of one."""

    rows: int
    size: Size
    steps: int  # still to do
    arrives_s: float = 0.0  # until it is queued: 0 for the queue's own; planning has arrivals
    then: "Task | None" = None  # the next pass, in the same flight
    pause_s: float = 0.0  # between this pass and the next one


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds from now."""

    start_s: float  # until it leaves the queue
    end_s: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The replicas of a model."""

    replicas: int  # of the denoiser, one or more
    rows_in_flight: int  # no image leaves the queue while there are so many
    batch_rows: Callable[[Size], int]  # rows that share a forward
    step_s: Callable[[int, Size], float]  # rows, and their size -> seconds of one step
    decode_s: Callable[[Size], float]  # of an image after its last step
    cold_start_s: float = 0.0  # until the first step can be made


def rows_in_flight(max_rows: int, replicas: int) -> int:
    """Return how many rows the denoisers may hold: twice those of a forward, so that none ever idles."""
    return 2 * max_rows * max(1, replicas)


def forecast(tasks: Sequence[Task], fleet: Fleet) -> list[Estimate]:
    """Return an estimate for each task, given in the order in which they are (or were) granted, and arrive.

    Images of one size share forwards, first come first served; each size gets the same share of the work, as in
    `StepBatcher`; replicas share the rows evenly. An image of several passes leaves the flight after the last one.
    """
    run = _Run(tasks, fleet)
    while run.unfinished:
        run.grant()
        run.join()
        run.go_on()
    return [Estimate(start, end) for start, end in zip(run.starts, run.ends, strict=True)]


class _Batch:
    """The images of one size, by their numbers."""

    def __init__(self) -> None:
        self.behind: deque[int] = deque()  # in flight, and not in the batch yet
        self.rows = 0  # of those in the batch
        self.pictures = 0
        self.steps = 0.0  # made since the beginning
        self.last_steps: list[tuple[float, int]] = []  # a heap: the step after which an image is finished
        self.rate = 0.0  # steps a second at present


class _Run:
    """The queue and its denoisers at one moment of the simulation."""

    def __init__(self, tasks: Sequence[Task], fleet: Fleet) -> None:
        self.starts: list[float] = []
        self.ends = [0.0] * len(tasks)
        self.unfinished = len(tasks)
        self._tasks = list(tasks)  # the present pass of each
        self._fleet = fleet
        self._step_s = cache(fleet.step_s)
        self._most_rows = {size: fleet.replicas * fleet.batch_rows(size) for size in _sizes(tasks)}
        self._batches = {size: _Batch() for size in self._most_rows}
        self._now = 0.0
        self._in_flight = 0  # rows
        self._pausing: list[tuple[float, int]] = []  # a heap: when an image goes on to its next pass
        self._decoding: list[tuple[float, int]] = []  # a heap: when its rows leave the flight, and how many

    def grant(self) -> None:
        """Let images leave the queue while there is room."""
        tasks, most = self._tasks, self._fleet.rows_in_flight
        while self._in_flight < most or not self._in_flight:
            number = len(self.starts)
            if number == len(tasks) or tasks[number].arrives_s > self._now:
                break
            task = tasks[number]
            self.starts.append(self._now)
            self._batches[task.size].behind.append(number)
            self._in_flight += task.rows

    def join(self) -> None:
        """Let images join the batch of their size while it has room."""
        if self._now < self._fleet.cold_start_s:
            return
        for size, batch in self._batches.items():
            most = self._most_rows[size]
            while batch.behind and (not batch.rows or batch.rows + self._tasks[batch.behind[0]].rows <= most):
                task = self._tasks[number := batch.behind.popleft()]
                batch.rows += task.rows
                batch.pictures += 1
                heappush(batch.last_steps, (batch.steps + max(0, task.steps), number))
        self._share()

    def go_on(self) -> None:
        """Go to the next moment at which something ends."""
        if self._now < self._fleet.cold_start_s:
            self._now = self._fleet.cold_start_s
            return
        running = [batch for batch in self._batches.values() if batch.rows]
        next_end = min((self._now + (b.last_steps[0][0] - b.steps) / b.rate for b in running), default=inf)
        left_at, goes_on_at = (heap[0][0] if heap else inf for heap in (self._decoding, self._pausing))
        moment = min(next_end, left_at, goes_on_at, self._next_arrival())
        for batch in running:
            end = self._now + (batch.last_steps[0][0] - batch.steps) / batch.rate
            batch.steps = batch.last_steps[0][0] if end <= moment else batch.steps + (moment - self._now) * batch.rate
        self._now = moment
        if left_at == moment:
            self._in_flight -= heappop(self._decoding)[1]
        if goes_on_at == moment:
            number = heappop(self._pausing)[1]
            self._batches[self._tasks[number].size].behind.append(number)
        for batch in running:
            while batch.last_steps and batch.last_steps[0][0] <= batch.steps:
                self._finish(heappop(batch.last_steps)[1], batch)

    def _next_arrival(self) -> float:
        """Return when the next image arrives; never, if it is queued already or there is none."""
        arrives_s = self._tasks[len(self.starts)].arrives_s if len(self.starts) < len(self._tasks) else inf
        return arrives_s if arrives_s > self._now else inf

    def _share(self) -> None:
        """Say how fast each size goes: in a round the one with the dearest forwards has one of them, others more."""
        running = {size: batch for size, batch in self._batches.items() if batch.rows}
        costs = {size: batch.rows * size[0] * size[1] for size, batch in running.items()}
        forwards = {size: max(costs.values()) / cost for size, cost in costs.items()}
        round_s = sum(forwards[size] * self._forward_s(size, batch) for size, batch in running.items())
        for size, batch in running.items():
            batch.rate = forwards[size] / round_s

    def _forward_s(self, size: Size, batch: _Batch) -> float:
        """Seconds of a forward of one replica, which has whole images."""
        rows = max(-(-batch.rows // self._fleet.replicas), -(-batch.rows // batch.pictures))
        return self._step_s(rows, size)

    def _finish(self, number: int, batch: _Batch) -> None:
        task = self._tasks[number]
        batch.rows -= task.rows
        batch.pictures -= 1
        if task.then is not None:
            self._tasks[number] = task.then
            heappush(self._pausing, (self._now + task.pause_s, number))
            return
        self.ends[number] = self._now + self._fleet.decode_s(task.size)
        self.unfinished -= 1
        heappush(self._decoding, (self.ends[number], task.rows))


def _sizes(tasks: Sequence[Task]) -> set[Size]:
    sizes = set[Size]()
    for first in tasks:
        task: Task | None = first
        while task is not None:
            sizes.add(task.size)
            task = task.then
    return sizes
