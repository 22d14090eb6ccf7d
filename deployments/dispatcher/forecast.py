"""What will happen to the queue, by running it ahead of time over the measured step curve. Pure.

One simulation answers everything: when a waiting picture starts, when a running one ends, what Retry-After to give.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from typing import TypeVar

from deployments.dispatcher.lease import Lease, Place, Waiting
from models.denoiser.step_curve import StepCurve
from models.spec import ImageSpec, StepUpdate

AROUND_S = 0.03  # encoding and decoding, until a picture has been measured
SMOOTHING = 0.2  # weight of the newest measurement

StepSeconds = Callable[[int, int], float]  # (rows, pixels of a row) -> seconds of one step
Name = TypeVar("Name", bound=Hashable)
Running = tuple[Lease, ImageSpec, StepUpdate | None]


@dataclass(frozen=True, slots=True)
class Task:
    """A picture as the forecast sees it."""

    rows: int
    pixels: int  # of a row
    steps: int  # still to do


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds from now."""

    start_s: float
    end_s: float


def forecast(
    tasks: Sequence[tuple[Name, Task]], *, replicas: int, max_rows: int, step_s: StepSeconds, around_s: float
) -> dict[Name, Estimate]:
    """Return an estimate for each task, given in the order in which they are (or were) granted.

    All pictures in the making advance by one step in a round; those of one size share a forward, sizes take turns, and
    replicas share the rows evenly. `around_s` is what encoding and decoding add to a picture.
    """
    waiting = deque(tasks)
    ends: list[tuple[int, int]] = []  # a heap: the round in which a picture ends, and its number
    active: dict[int, tuple[Name, Task, float]] = {}  # number -> name, task, start
    rows: Counter[int] = Counter()  # pixels of a row -> rows
    seconds = cache(step_s)
    found: dict[Name, Estimate] = {}
    now, done, number, capacity = 0.0, 0, 0, max(1, replicas) * max_rows
    while waiting or active:
        while waiting and (not active or rows.total() + waiting[0][1].rows <= capacity):
            name, task = waiting.popleft()
            active[number] = name, task, now
            heappush(ends, (done + max(task.steps, 0), number))
            rows[task.pixels] += task.rows
            number += 1
        end = ends[0][0]
        now += (end - done) * sum(seconds(-(-n // max(1, replicas)), pixels) for pixels, n in rows.items())
        done = end
        while ends and ends[0][0] == done:
            name, task, start = active.pop(heappop(ends)[1])
            found[name] = Estimate(start, now + around_s)
            rows -= Counter({task.pixels: task.rows})
    return found


class Forecaster:
    """What has been measured of the replicas so far, and the forecast that follows from it."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._curve = StepCurve()
        self._around_s = AROUND_S

    def measure_step(self, spec: ImageSpec, before: StepUpdate | None, now: StepUpdate) -> None:
        """Learn how long a step takes from two updates of a picture."""
        if before and now.step > before.step:
            seconds = (now.denoise_s - before.denoise_s) / (now.step - before.step)
            self._curve.measure(now.batch_rows, spec.width * spec.height, seconds)

    def measure_around(self, seconds: float) -> None:
        """Learn how long a picture takes besides its steps."""
        self._around_s += SMOOTHING * (seconds - self._around_s)

    def estimates(self, running: Iterable[Running], waiting: Iterable[Waiting], replicas: int) -> dict[Place, Estimate]:
        """Return an estimate for each picture that runs or waits."""
        tasks = [(lease.place, _task(spec, update.step if update else 0)) for lease, spec, update in running]
        tasks += [(one.lease.place, _task(one.spec, 0)) for one in waiting]
        return forecast(
            tasks, replicas=replicas, max_rows=self._max_rows, step_s=self._curve.step_s, around_s=self._around_s
        )


def _task(spec: ImageSpec, done: int) -> Task:
    return Task(spec.rows, spec.width * spec.height, spec.model_calls - done)
