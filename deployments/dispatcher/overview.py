"""What the Dispatcher says of the whole, and of one key."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueState:
    """The whole queue at a glance. Counts are pictures."""

    waiting: int
    running: int
    eta_s: float  # until everything in it is done
    replicas: Mapping[str, int]
    batch_rows_mean: float


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key may ask for, and what is left of it."""

    max_waiting: int | None
    waiting: int
    max_cost_per_day: float | None
    spent: float
    resets_in_s: float
