"""A queue of images that is fair between owners.

The next image is of the owner with the least work so far, counted in `ImageSpec.cost`. An owner who arrives, or
returns, starts no lower than the counter of the owner served last (start-time fair queueing, Goyal et al. 1996). The
images of one owner are served first come, first served. A turn costs the logarithm of the number of owners, however
long the queue.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Set
from heapq import heapify, heappop, heappush
from itertools import count

from deployments.dispatcher.lease import QueuedImage

Turn = tuple[float, int, str]  # the owner's counter, number of arrival, and name


class FairQueue:
    """A queue for each owner, and whose turn it is. Images that lost their replica come before all others."""

    def __init__(self) -> None:
        self._urgent: deque[QueuedImage] = deque()
        self._queues: dict[str, deque[QueuedImage]] = {}  # by owner; never empty
        self._turns: dict[str, Turn] = {}  # by owner
        self._heap: list[Turn] = []  # the turns, and old ones of owners who have left
        self._served: dict[str, float] = {}  # owner -> work so far
        self._clock = 0.0  # the counter of the owner served last
        self._arrivals = count()
        self._images: Counter[str] = Counter()  # by job
        self._length = 0
        self.cost = 0.0  # of all images

    def __len__(self) -> int:
        return self._length

    @property
    def jobs(self) -> int:
        """Jobs with images in the queue."""
        return len(self._images)

    @property
    def owners(self) -> Set[str]:
        """Owners with images in the queue, without images that lost their replica: these are taken at once."""
        return self._queues.keys()

    def __iter__(self) -> Iterator[QueuedImage]:
        """Iterate in the order in which images are taken if nobody else arrives and all owners may run."""
        yield from self._urgent
        heads = {owner: iter(images) for owner, images in self._queues.items()}
        turns = list(self._turns.values())
        heapify(turns)
        following = {owner: next(images) for owner, images in heads.items()}
        while turns:
            counter, arrival, owner = heappop(turns)
            image = following[owner]
            if (after := next(heads[owner], None)) is not None:
                following[owner] = after
                heappush(turns, (counter + image.spec.cost, arrival, owner))
            yield image

    def of_job(self, job_id: str) -> int:
        """Return how many images of a job are in the queue."""
        return self._images[job_id]

    def of(self, owner: str) -> int:
        """Return how many images of an owner are in the queue, without those that lost their replica."""
        return len(self._queues.get(owner, ()))

    def put(self, owner: str, images: Iterable[QueuedImage]) -> None:
        """Append images to their owner's queue."""
        for image in images:
            if owner not in self._queues:
                self._queues[owner] = deque()
                self._served[owner] = max(self._served.get(owner, 0.0), self._clock)
                self._await_turn(owner, next(self._arrivals))
            self._queues[owner].append(image)
            self._added(image)

    def put_first(self, image: QueuedImage) -> None:
        """Put an image that lost its replica at the front."""
        self._urgent.appendleft(image)
        self._added(image)

    def take(self, may_run: Callable[[str], bool]) -> QueuedImage | None:
        """Remove and return the first image whose owner may run one more; None if there is none."""
        for image in self._urgent:
            if may_run(image.owner):
                self._urgent.remove(image)
                self._removed(image)
                return image
        passed: list[Turn] = []
        taken = None
        while self._heap and taken is None:
            turn = heappop(self._heap)
            _, arrival, owner = turn
            if self._turns.get(owner) != turn:
                continue  # the owner has left, or has returned since
            if not may_run(owner):
                passed.append(turn)
                continue
            taken = self._queues[owner].popleft()
            self._removed(taken)
            self._clock = max(self._clock, self._served[owner])  # an owner who was held back may be behind it
            self._served[owner] += taken.spec.cost
            if self._queues[owner]:
                self._await_turn(owner, arrival)
            else:
                self._leave(owner)
        for turn in passed:
            heappush(self._heap, turn)
        return taken

    def remove(self, job_id: str, owner: str) -> None:
        """Remove the images of a job."""
        if not self.of_job(job_id):
            return
        self._urgent = self._without(job_id, self._urgent)
        if owner in self._queues:
            self._queues[owner] = self._without(job_id, self._queues[owner])
        if owner in self._queues and not self._queues[owner]:
            self._leave(owner)

    def _without(self, job_id: str, images: deque[QueuedImage]) -> deque[QueuedImage]:
        for image in images:
            if image.lease.job_id == job_id:
                self._removed(image)
        return deque(image for image in images if image.lease.job_id != job_id)

    def _added(self, image: QueuedImage) -> None:
        self._length += 1
        self.cost += image.spec.cost
        self._images[image.lease.job_id] += 1

    def _removed(self, image: QueuedImage) -> None:
        self._length -= 1
        self.cost = self.cost - image.spec.cost if self._length else 0.0
        self._images[image.lease.job_id] -= 1
        if not self._images[image.lease.job_id]:
            del self._images[image.lease.job_id]

    def _await_turn(self, owner: str, arrival: int) -> None:
        turn = self._turns[owner] = self._served[owner], arrival, owner
        heappush(self._heap, turn)

    def _leave(self, owner: str) -> None:
        del self._queues[owner], self._turns[owner]
        if not self._queues:  # empty: all owners are equal again
            self._served, self._heap, self._clock = {}, [], 0.0
