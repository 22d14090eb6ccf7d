"""What will happen to the queue, by running it ahead of time over the measured step curve. Pure.

One simulation answers everything: when a waiting picture starts, when a running one ends, what Retry-After to give.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

StepSeconds = Callable[[int, int], float]  # (rows, pixels of a row) -> seconds of one step
Name = TypeVar("Name", bound=Hashable)


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
    waiting = list(tasks)[::-1]
    active: list[tuple[Name, Task, float, int]] = []  # name, task, start, steps left
    found: dict[Name, Estimate] = {}
    now, rows, capacity = 0.0, 0, max(1, replicas) * max_rows
    while waiting or active:
        while waiting and (not active or rows + waiting[-1][1].rows <= capacity):
            name, task = waiting.pop()
            active.append((name, task, now, max(task.steps, 0)))
            rows += task.rows
        rounds = min(left for *_, left in active)
        now += rounds * _round_s([task for _, task, _, _ in active], replicas, step_s)
        still: list[tuple[Name, Task, float, int]] = []
        for name, task, start, left in active:
            if left > rounds:
                still.append((name, task, start, left - rounds))
            else:
                found[name] = Estimate(start, now + around_s)
                rows -= task.rows
        active = still
    return found


def _round_s(tasks: Sequence[Task], replicas: int, step_s: StepSeconds) -> float:
    """Seconds in which each of `tasks` advances by one step."""
    rows: dict[int, int] = {}
    for task in tasks:
        rows[task.pixels] = rows.get(task.pixels, 0) + task.rows
    return sum(step_s(-(-count // max(1, replicas)), pixels) for pixels, count in rows.items())
