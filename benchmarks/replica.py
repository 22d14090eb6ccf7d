"""A simulated replica, and the clock that simulations run on."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count

Do = Callable[[], None]


class Clock:
    """Does what is due, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Do]] = []
        self._order = count()

    def at(self, moment: float, do: Do) -> None:
        heappush(self._due, (moment, next(self._order), do))

    def run(self) -> None:
        while self._due:
            self.now, _, do = heappop(self._due)
            do()


class Replica:
    """Makes steps for the pictures that fit into a batch; others wait until one of them has had its last."""

    def __init__(self, clock: Clock, step_s: Sequence[float], finish: Callable[["Replica", Do], None]) -> None:
        self.since = clock.now
        self.ready = False
        self.pictures = 0  # that it has, those that wait for room included
        self._clock, self._step_s, self._finish = clock, step_s, finish
        self._behind: deque[tuple[int, int, Do]] = deque()  # rows, steps, what follows
        self._batch: list[tuple[float, int, int, int, Do]] = []  # a heap: the last step, an order, and as above
        self._order = count()
        self._rows = 0
        self._steps = 0.0  # made since the beginning
        self._at = 0.0  # when they were counted
        self._batches = 0  # that there have been: an end that was foreseen for an earlier one is void

    def take(self, rows: int, steps: int, then: Do) -> None:
        self._count()
        self.pictures += 1
        self._behind.append((rows, steps, then))
        self._join()

    def done(self) -> float:
        """Return the cost that has been done of the pictures it has."""
        self._count()
        return sum(rows * (steps - (last - self._steps)) for last, _, rows, steps, _ in self._batch)

    def _count(self) -> None:
        if self._rows:
            self._steps += (self._clock.now - self._at) / self._step_s[self._rows]
        self._at = self._clock.now

    def _join(self) -> None:
        while self._behind and self._rows + self._behind[0][0] < len(self._step_s):
            rows, steps, then = self._behind.popleft()
            self._rows += rows
            heappush(self._batch, (self._steps + steps, next(self._order), rows, steps, then))
        self._batches += 1
        if self._batch:
            left_s = max(0.0, self._batch[0][0] - self._steps) * self._step_s[self._rows]
            self._clock.at(self._clock.now + left_s, partial(self._end, self._batches))

    def _end(self, batch: int) -> None:
        if batch != self._batches:
            return
        self._count()
        self._steps, _, rows, _, then = heappop(self._batch)
        self._rows -= rows
        self.pictures -= 1
        self._join()
        self._finish(self, then)
