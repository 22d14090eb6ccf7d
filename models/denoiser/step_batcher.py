"""Who shares the next forward. No tensors: rows are counted, not looked at."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Running(Protocol):
    """A picture as the batcher sees it; `key.cells` says what a row of its kind costs."""

    @property
    def key(self) -> Any: ...
    @property
    def rows(self) -> int: ...
    @property
    def finished(self) -> bool: ...
    def advance(self, latents: Any, /) -> None: ...


State = TypeVar("State", bound=Running)


class StepBatcher(Generic[State]):
    """Keys take turns by deficit round-robin (Shreedhar & Varghese 1995); within a key, first come first served.

    A turn is worth what the dearest forward costs, so that each key gets the same share of time however large its
    pictures are, and none starves.
    """

    def __init__(self, most_rows: Callable[[Any], int]) -> None:
        self._most_rows = most_rows  # of a batch with this key
        self._pictures: OrderedDict[Any, list[State]] = OrderedDict()  # the key whose turn it is comes first
        self._credit: dict[Any, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._pictures.values()))

    def add(self, state: State) -> None:
        """Let a picture join at the next step."""
        self._pictures.setdefault(state.key, []).append(state)
        self._credit.setdefault(state.key, 0)

    def remove(self, states: Iterable[State]) -> None:
        """Take pictures out; those that left already are ignored."""
        for state in states:
            pictures = self._pictures.get(state.key, [])
            if state in pictures:
                pictures.remove(state)
            if not pictures:
                self._pictures.pop(state.key, None)
                self._credit.pop(state.key, None)

    def states(self) -> list[State]:
        """Every picture in the engine."""
        return [state for pictures in self._pictures.values() for state in pictures]

    def next_batch(self) -> list[State]:
        """Return pictures of one key, oldest first, within the rows that it may have; empty if there are none."""
        if not self._pictures:
            return []
        batches = {key: self._head(key) for key in self._pictures}
        costs = {key: key.cells * sum(state.rows for state in batch) for key, batch in batches.items()}
        key = next(iter(self._pictures))
        if self._credit[key] < costs[key]:
            self._pictures.move_to_end(key)
            key = next(iter(self._pictures))
            self._credit[key] += max(costs.values())
        self._credit[key] -= costs[key]
        return batches[key]

    def advance(self, batch: Sequence[State], latents: Iterable[Any]) -> list[State]:
        """Give each picture of `batch` its next latents; take out and return the finished ones."""
        for state, value in zip(batch, latents, strict=True):
            state.advance(value)
        finished = [state for state in batch if state.finished]
        self.remove(finished)
        return finished

    def _head(self, key: Any) -> list[State]:
        batch, rows, most = [], 0, self._most_rows(key)
        for state in self._pictures[key]:
            if rows + state.rows > most:
                break
            batch.append(state)
            rows += state.rows
        return batch
