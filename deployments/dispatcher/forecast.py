"""What will happen to the queue, by running it ahead of time over the measured step curve. Pure."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from math import inf


@dataclass(frozen=True, slots=True)
class Task:
    """A picture as the forecast sees it."""

    rows: int
    pixels: int  # of a row
    steps: int  # still to do


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds from now."""

    start_s: float  # until it leaves the line
    end_s: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """What draws."""

    replicas: int  # of the denoiser, one or more
    rows_in_flight: int  # no picture leaves the line while there are so many
    batch_rows: Callable[[int], int]  # pixels of a row -> rows that share a forward
    step_s: Callable[[int, int], float]  # (rows, pixels of a row) -> seconds of one step
    decode_s: float  # what a picture takes after its last step
    awake_in_s: float = 0.0  # until the first step can be made


def rows_in_flight(max_rows: int, replicas: int) -> int:
    """Return how many rows the denoisers are given: as many again as they can draw, so that none ever idles."""
    return 2 * max_rows * max(1, replicas)


def forecast(tasks: Sequence[Task], fleet: Fleet) -> list[Estimate]:
    """Return an estimate for each task, given in the order in which they are (or were) granted.

    Pictures of one size share forwards, first come first served; the sizes take turns; replicas share the rows evenly.
    """
    run = _Run(tasks, fleet)
    while run.unfinished:
        run.grant()
        run.join()
        run.go_on()
    return [Estimate(start, end) for start, end in zip(run.starts, run.ends, strict=True)]


class _Run:
    """The queue and its denoisers at one moment of the simulation. A picture is known by its number."""

    def __init__(self, tasks: Sequence[Task], fleet: Fleet) -> None:
        self.starts: list[float] = []
        self.ends = [0.0] * len(tasks)
        self.unfinished = len(tasks)
        self._tasks = tasks
        self._fleet = fleet
        self._step_s = cache(fleet.step_s)
        self._batch_rows = cache(fleet.batch_rows)
        self._now = 0.0
        self._in_flight = 0  # rows
        self._behind: defaultdict[int, deque[int]] = defaultdict(deque)  # pixels -> in flight, not in a batch yet
        self._rows: Counter[int] = Counter()  # pixels -> rows in a batch
        self._steps = 0.0  # made by every picture in a batch since the beginning
        self._last_steps: list[tuple[float, int]] = []  # a heap: the step after which a picture is finished
        self._decoding: deque[tuple[float, int]] = deque()  # when its rows leave the flight, and how many

    def grant(self) -> None:
        """Let pictures leave the line while there is room."""
        tasks, most = self._tasks, self._fleet.rows_in_flight
        while len(self.starts) < len(tasks) and (self._in_flight < most or not self._in_flight):
            number = len(self.starts)
            self.starts.append(self._now)
            self._behind[tasks[number].pixels].append(number)
            self._in_flight += tasks[number].rows

    def join(self) -> None:
        """Let pictures join the batch of their size while it has room."""
        if self._now < self._fleet.awake_in_s:
            return
        for pixels, behind in self._behind.items():
            most = self._fleet.replicas * self._batch_rows(pixels)
            while behind and (not self._rows[pixels] or self._rows[pixels] + self._tasks[behind[0]].rows <= most):
                task = self._tasks[number := behind.popleft()]
                self._rows[pixels] += task.rows
                heappush(self._last_steps, (self._steps + max(0, task.steps), number))

    def go_on(self) -> None:
        """Go to the next moment at which something ends."""
        if self._now < self._fleet.awake_in_s:
            self._now = self._fleet.awake_in_s
            return
        replicas = self._fleet.replicas
        round_s = sum(self._step_s(-(-rows // replicas), pixels) for pixels, rows in self._rows.items() if rows)
        finished = self._now + (self._last_steps[0][0] - self._steps) * round_s if self._last_steps else inf
        if self._decoding and self._decoding[0][0] <= finished:
            left_at, rows = self._decoding.popleft()
            self._steps += (left_at - self._now) / round_s if self._last_steps else 0.0
            self._now = left_at
            self._in_flight -= rows
        else:
            self._now = finished
            self._steps = self._last_steps[0][0]
            while self._last_steps and self._last_steps[0][0] <= self._steps:
                self._finish(heappop(self._last_steps)[1])

    def _finish(self, number: int) -> None:
        task = self._tasks[number]
        self.ends[number] = self._now + self._fleet.decode_s
        self.unfinished -= 1
        self._rows[task.pixels] -= task.rows
        self._decoding.append((self.ends[number], task.rows))
