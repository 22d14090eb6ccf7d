"""A simulated fleet: pictures come, wait in line, and pass three stages whose replicas come and go.

Assumed: a replica's pictures share its steps, and one joins at once instead of at the next step; a call goes to the
less laden of two replicas, as Serve's router does it; the newest replica leaves first, and finishes what it has; calls
between stages take no time; nothing fails.
"""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import Protocol

from ray.serve.autoscaling_policy import _apply_delay_logic
from ray.serve.config import AutoscalingConfig

from benchmarks.replica import Clock, Do, Replica
from deployments.autoscaling import Demand
from deployments.dispatcher.arrivals import Arrivals
from deployments.dispatcher.forecast import rows_in_flight
from deployments.stages import STAGES

ENCODER, DENOISER, DECODER = (stage.deployment for stage in STAGES)
SAMPLE_S = 2.0  # between two looks at what there is to do
DECIDE_S = 10.0  # between two decisions: Serve's replicas report so often


@dataclass(frozen=True, slots=True)
class Picture:
    """What is asked for."""

    arrives_s: float
    rows: int
    steps: int

    @property
    def cost(self) -> int:
        return self.rows * self.steps


@dataclass(frozen=True)
class Deployment:
    """One stage: how it may scale, and what its replicas do."""

    scaling: AutoscalingConfig
    gpus: float  # of a replica
    start_s: float  # until a replica takes its first picture
    step_s: Sequence[float]  # seconds of a step of 0, 1, … as many rows as it may have


@dataclass(frozen=True, slots=True)
class Seen:
    """What a policy sees: means over Serve's `look_back_period_s`."""

    demand: Demand
    ongoing: Mapping[str, float]  # stage -> calls that wait for it or run; the Denoiser's line counts


class Policy(Protocol):
    """Says how many replicas each stage should have, before bounds and delays."""

    def __call__(self, seen: Seen) -> Mapping[str, int]: ...


@dataclass
class Outcome:
    """What came of a day."""

    took_s: list[float] = field(default_factory=list)  # from arrival to file, in the order of the ends
    gpu_s: dict[str, float] = field(default_factory=dict)  # stage -> seconds of GPUs that were held
    denoisers: list[tuple[float, int]] = field(default_factory=list)  # moment, and how many were wanted from then

    def within(self, seconds: float) -> float:
        """Return the share of pictures that took at most so long."""
        return sum(took <= seconds for took in self.took_s) / len(self.took_s)

    @property
    def gpu_hours(self) -> float:
        return sum(self.gpu_s.values()) / 3600


class Stage:
    """The replicas of a deployment, and Serve's way with what a policy wants of it."""

    def __init__(self, clock: Clock, deployment: Deployment, rng: random.Random, ready: Do) -> None:
        self.replicas: list[Replica] = []  # the newest last; without those that leave
        self.gpu_s = 0.0  # of those that are gone
        self.ongoing = 0
        self._clock, self._deployment, self._rng, self._ready = clock, deployment, rng, ready
        self._waiting: list[tuple[int, int, Do]] = []  # for a first replica
        self._delays: dict[str, object] = {}  # Serve's: since when which way was wanted
        self._leaving: list[Replica] = []
        initial = deployment.scaling.initial_replicas or deployment.scaling.min_replicas
        self._scale(initial, start_s=0.0)

    @property
    def running(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.ready]

    @property
    def all(self) -> list[Replica]:
        return self.replicas + self._leaving

    def give(self, rows: int, steps: int, then: Do) -> None:
        """Have a picture made; then do `then`."""
        self.ongoing += 1
        running = self.running
        if not running:
            self._waiting.append((rows, steps, then))
            if not self.replicas:
                self._scale(1, self._deployment.start_s)
            return
        two = running if len(running) < 3 else self._rng.sample(running, 2)
        min(two, key=lambda replica: replica.pictures).take(rows, steps, then)

    def want(self, wanted: int) -> None:
        """Scale as Serve does: at once from zero, else within bounds and after the delays."""
        scaling, target = self._deployment.scaling, len(self.replicas)
        if not self.running and self.ongoing:
            return
        if self.running or not wanted:
            wanted, self._delays = _apply_delay_logic(wanted, target, scaling, self._delays, self._clock.now)
        self._scale(min(scaling.max_replicas, max(scaling.min_replicas, wanted)), self._deployment.start_s)

    def close(self) -> None:
        """Count what the replicas that are left have cost."""
        for replica in self.all:
            self._pay(replica)

    def _scale(self, target: int, start_s: float) -> None:
        while len(self.replicas) < target:
            replica = Replica(self._clock, self._deployment.step_s, self._finish)
            self.replicas.append(replica)
            self._clock.at(self._clock.now + start_s, partial(self._start, replica))
        while len(self.replicas) > target:
            replica = self.replicas.pop()
            if replica.pictures:
                self._leaving.append(replica)
            else:
                self._pay(replica)

    def _start(self, replica: Replica) -> None:
        if replica not in self.replicas:  # it was taken back
            return
        replica.ready = True
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            replica.take(*one)
        self._ready()

    def _finish(self, replica: Replica, then: Do) -> None:
        self.ongoing -= 1
        if replica in self._leaving and not replica.pictures:
            self._leaving.remove(replica)
            self._pay(replica)
        then()

    def _pay(self, replica: Replica) -> None:
        self.gpu_s += self._deployment.gpus * (self._clock.now - replica.since)


class Fleet:
    """The line, as the Dispatcher keeps it, before three stages that a policy scales."""

    def __init__(self, deployments: Mapping[str, Deployment], policy: Policy, seed: int) -> None:
        self._clock = Clock()
        rng = random.Random(seed)
        self._line: deque[Picture] = deque()
        self._rows = 0  # in flight
        self._cost = 0  # of what the Denoisers have not done, as if nothing of it were begun
        self._pictures = 0  # not done
        self._arrivals = Arrivals()
        self._policy = policy
        self._outcome = Outcome()
        full = deployments[DENOISER].step_s
        self._most_rows, self._cost_s = len(full) - 1, full[-1] / (len(full) - 1)
        look_back = deployments[DENOISER].scaling.look_back_period_s
        self._seen: deque[tuple[float, ...]] = deque(maxlen=round(look_back / SAMPLE_S))
        self._stages: dict[str, Stage] = {}
        for name, deployment in deployments.items():
            self._stages[name] = Stage(self._clock, deployment, rng, self._grant)

    def run(self, pictures: Sequence[Picture], until_s: float) -> Outcome:
        """Make all the pictures; the fleet stands until `until_s`, or until the last is done."""
        self._until_s = until_s
        coming = iter(pictures)
        self._expect(coming)
        self._clock.at(0.0, self._look)
        self._clock.run()
        for name, stage in self._stages.items():
            stage.close()
            self._outcome.gpu_s[name] = stage.gpu_s
        return self._outcome

    def _expect(self, coming: Iterator[Picture]) -> None:
        if picture := next(coming, None):
            self._clock.at(picture.arrives_s, partial(self._arrive, picture, coming))

    def _arrive(self, picture: Picture, coming: Iterator[Picture]) -> None:
        self._expect(coming)
        self._arrivals.add(1, picture.cost, self._clock.now)
        self._pictures += 1
        self._cost += picture.cost
        self._line.append(picture)
        self._grant()

    def _grant(self) -> None:
        """Let pictures leave the line while there is room."""
        most = rows_in_flight(self._most_rows, len(self._stages[DENOISER].running))
        while self._line and self._rows < most:
            picture = self._line.popleft()
            self._rows += picture.rows
            self._stages[ENCODER].give(1, 1, partial(self._denoise, picture))

    def _denoise(self, picture: Picture) -> None:
        self._stages[DENOISER].give(picture.rows, picture.steps, partial(self._decode, picture))

    def _decode(self, picture: Picture) -> None:
        self._cost -= picture.cost
        self._stages[DECODER].give(1, 1, partial(self._end, picture))

    def _end(self, picture: Picture) -> None:
        self._pictures -= 1
        self._rows -= picture.rows
        self._outcome.took_s.append(self._clock.now - picture.arrives_s)
        self._grant()

    def _look(self) -> None:
        """See what there is to do; decide, when it is time."""
        now, stages = self._clock.now, self._stages
        pictures_per_s, cost_per_s = self._arrivals.per_s(now)
        left = self._cost - sum(replica.done() for replica in stages[DENOISER].all)
        demand = Demand(self._pictures, pictures_per_s, self._cost_s * left, self._cost_s * cost_per_s)
        before = len(self._line) + stages[ENCODER].ongoing
        ongoing = (stage.ongoing + (before if name == DENOISER else 0) for name, stage in stages.items())
        self._seen.append((*astuple(demand), *ongoing))
        if now % DECIDE_S == 0:
            self._decide()
        if now < self._until_s or self._pictures:
            self._clock.at(now + SAMPLE_S, self._look)

    def _decide(self) -> None:
        means = [sum(values) / len(values) for values in zip(*self._seen, strict=True)]
        seen = Seen(Demand(*means[:4]), dict(zip(self._stages, means[4:], strict=True)))
        for name, wanted in self._policy(seen).items():
            self._stages[name].want(wanted)
        self._outcome.denoisers.append((self._clock.now, len(self._stages[DENOISER].replicas)))
