"""What the Dispatcher says of the whole, and of one key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Replicas(NamedTuple):
    """How many replicas of a stage work, and how many are on their way."""

    running: int
    starting: int = 0


@dataclass(frozen=True, slots=True)
class ModelQueue:
    """What there is to do for one model, and who does it. Counts are pictures."""

    waiting: int
    running: int
    eta_s: float  # until everything is done
    replicas: Mapping[str, int]  # of each stage
    starting: Mapping[str, int]  # replicas that are on their way


@dataclass(frozen=True, slots=True)
class QueueState:
    """The whole queue at a glance. Counts are pictures."""

    waiting: int
    running: int
    eta_s: float  # until everything in it is done
    replicas: Mapping[str, int]  # of each stage, of all models
    batch_rows_mean: float
    starting: Mapping[str, int]  # replicas that are on their way
    owners: int  # who wait
    models: Mapping[str, ModelQueue]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key may ask for, and what is left of it."""

    max_waiting: int | None
    waiting: int
    max_cost_per_day: float | None
    spent: float
    resets_in_s: float
