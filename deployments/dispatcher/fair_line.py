"""Pictures in line, fair between owners.

The next picture is one of the owner who has had the least work so far: a virtual counter in `ImageSpec.cost`. An owner
who comes, or comes back, starts no lower than the one served last stood (start-time fair queueing, Goyal et al. 1996).
Within an owner: first come, first served. A turn costs the logarithm of the owners, however long the line.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Set
from heapq import heapify, heappop, heappush
from itertools import count

from deployments.dispatcher.lease import Waiting

Turn = tuple[float, int, str]  # the owner's counter, when they came, and who


class FairLine:
    """A line for each owner, and whose turn it is. Pictures that lost their replica are before all."""

    def __init__(self) -> None:
        self._urgent: deque[Waiting] = deque()
        self._lines: dict[str, deque[Waiting]] = {}  # of owners who wait; never empty
        self._turns: dict[str, Turn] = {}  # of owners who wait
        self._heap: list[Turn] = []  # the turns; some are of owners who have left
        self._served: dict[str, float] = {}  # counters
        self._clock = 0.0  # the counter of the owner served last
        self._arrivals = count()
        self._pictures: Counter[str] = Counter()  # job -> how many of it wait
        self._length = 0
        self.cost = 0.0  # of all that waits

    def __len__(self) -> int:
        return self._length

    @property
    def jobs(self) -> int:
        """Jobs of which something waits."""
        return len(self._pictures)

    @property
    def owners(self) -> Set[str]:
        """Who waits. Pictures that a dead replica gave back do not count: they are taken at once."""
        return self._lines.keys()

    def __iter__(self) -> Iterator[Waiting]:
        """Walk the line in the order in which it will be taken if nobody else comes and all may run."""
        yield from self._urgent
        heads = {owner: iter(line) for owner, line in self._lines.items()}
        turns = list(self._turns.values())
        heapify(turns)
        following = {owner: next(line) for owner, line in heads.items()}
        while turns:
            counter, arrival, owner = heappop(turns)
            waiting = following[owner]
            if (after := next(heads[owner], None)) is not None:
                following[owner] = after
                heappush(turns, (counter + waiting.spec.cost, arrival, owner))
            yield waiting

    def of_job(self, job_id: str) -> int:
        """How many of a job's pictures wait."""
        return self._pictures[job_id]

    def of(self, owner: str) -> int:
        """How many of an owner's pictures wait, but for those that lost their replica."""
        return len(self._lines.get(owner, ()))

    def put(self, owner: str, pictures: Iterable[Waiting]) -> None:
        """Let pictures wait at the end of their owner's line."""
        for waiting in pictures:
            if owner not in self._lines:
                self._lines[owner] = deque()
                self._served[owner] = max(self._served.get(owner, 0.0), self._clock)
                self._await_turn(owner, next(self._arrivals))
            self._lines[owner].append(waiting)
            self._came(waiting)

    def put_first(self, waiting: Waiting) -> None:
        """Let a picture that lost its replica wait at the very front."""
        self._urgent.appendleft(waiting)
        self._came(waiting)

    def take(self, may_run: Callable[[str], bool]) -> Waiting | None:
        """Take out the first picture whose owner may run one more; None where there is none."""
        for waiting in self._urgent:
            if may_run(waiting.owner):
                self._urgent.remove(waiting)
                self._went(waiting)
                return waiting
        passed: list[Turn] = []
        taken = None
        while self._heap and taken is None:
            turn = heappop(self._heap)
            _, arrival, owner = turn
            if self._turns.get(owner) != turn:
                continue  # the owner has left, or come anew
            if not may_run(owner):
                passed.append(turn)
                continue
            taken = self._lines[owner].popleft()
            self._went(taken)
            self._clock = max(self._clock, self._served[owner])  # one who was held back stands behind it
            self._served[owner] += taken.spec.cost
            if self._lines[owner]:
                self._await_turn(owner, arrival)
            else:
                self._leave(owner)
        for turn in passed:
            heappush(self._heap, turn)
        return taken

    def remove(self, job_id: str, owner: str) -> None:
        """Take out what waits of a job."""
        if not self.of_job(job_id):
            return
        self._urgent = self._without(job_id, self._urgent)
        if owner in self._lines:
            self._lines[owner] = self._without(job_id, self._lines[owner])
        if owner in self._lines and not self._lines[owner]:
            self._leave(owner)

    def _without(self, job_id: str, line: deque[Waiting]) -> deque[Waiting]:
        for waiting in line:
            if waiting.lease.job_id == job_id:
                self._went(waiting)
        return deque(waiting for waiting in line if waiting.lease.job_id != job_id)

    def _came(self, waiting: Waiting) -> None:
        self._length += 1
        self.cost += waiting.spec.cost
        self._pictures[waiting.lease.job_id] += 1

    def _went(self, waiting: Waiting) -> None:
        self._length -= 1
        self.cost = self.cost - waiting.spec.cost if self._length else 0.0
        self._pictures[waiting.lease.job_id] -= 1
        if not self._pictures[waiting.lease.job_id]:
            del self._pictures[waiting.lease.job_id]

    def _await_turn(self, owner: str, arrival: int) -> None:
        turn = self._turns[owner] = self._served[owner], arrival, owner
        heappush(self._heap, turn)

    def _leave(self, owner: str) -> None:
        del self._lines[owner], self._turns[owner]
        if not self._lines:  # nobody waits: all are equal again
            self._served, self._heap, self._clock = {}, [], 0.0
