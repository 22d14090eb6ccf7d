"""Figures of the queue, of one model's part of it, and of one key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Replicas(NamedTuple):
    """How many replicas of a stage run, and how many are starting."""

    running: int
    starting: int = 0


@dataclass(frozen=True, slots=True)
class ModelStats:
    """The queue of one model, and its replicas. Counts are images."""

    waiting: int
    running: int
    eta_s: float  # until everything is done
    replicas: Mapping[str, int]  # of each stage
    starting: Mapping[str, int]  # replicas


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The whole queue at a glance. Counts are images."""

    waiting: int
    running: int
    eta_s: float  # until everything in it is done
    replicas: Mapping[str, int]  # of each stage, of all models
    batch_rows_mean: float
    starting: Mapping[str, int]  # replicas
    owners: int  # with images that wait
    models: Mapping[str, ModelStats]


@dataclass(frozen=True, slots=True)
class Allowance:
    """The caps of a key, and what is left of them."""

    max_waiting: int | None
    waiting: int
    max_cost_per_day: float | None
    spent: float
    resets_in_s: float
