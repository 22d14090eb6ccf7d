"""`make soak`: half an hour of mixed load with faults, a rolling update and a scale-down. What is lost, and what grows.

Once a minute the clients pause, and it is seen what each process holds at rest: at work a Denoiser holds 10 MiB more or
less from one moment to the next. Prints a table of every process that lived through enough, and one line of JSON.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import psutil

from ops.config import application
from tests.chaos.cluster import POISON, denoiser, running_cluster, scaled_checkpoint
from tests.chaos.drill import ENDS_WITHIN_S, a_body
from tests.cluster import Cluster

CLIENTS = 8
FAULTS = 0.01  # of the jobs: pictures that turn into NaN
CANCELS = 0.03
MOST_STATES = 1000  # of a job: more than there are
RESTED_EVERY_S = 60.0
REST_S = 5.0  # with two health checks of each replica: what is free goes back to the system
SETTLED = 0.5  # of what was seen of a process; before, caches fill
LEAST_JOBS = 300  # that a process must have seen settled, to be judged
MOST_MB = 1.0  # that it may grow by, each 1,000 jobs
MOST_MORE = 5  # file descriptors or threads


@dataclass(frozen=True)
class Sample:
    """A process at rest."""

    jobs: int  # that had ended by then
    private_mb: float
    files: int
    threads: int


@dataclass(frozen=True)
class Growth:
    """What became of a process over the settled part of what was seen of it."""

    name: str
    pid: int
    jobs: int
    private_mb: float
    mb_per_1000_jobs: float
    more_files: float
    more_threads: float
    course: list[tuple[int, float]]  # of all that was seen of it: jobs that had ended, and MiB

    @property
    def held(self) -> bool:
        """Whether it stays within the bounds."""
        flat = abs(self.more_files) <= MOST_MORE and abs(self.more_threads) <= MOST_MORE
        return self.mb_per_1000_jobs <= MOST_MB and flat


class Load:
    """Clients that send one job after another and see each of them end, but for pauses."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.ended: Counter[str] = Counter()
        self.lost: list[str] = []
        self.over = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self._cluster = cluster
        self._seed = seed

    def client(self, number: int) -> None:
        """Send jobs until it is over."""
        dice = random.Random(self._seed * 1000 + number)
        while self.goes_on.wait() and not self.over.is_set():
            body = a_body(dice.randrange(8)) | {"num_inference_steps": dice.choice((3, 5, 8))}
            poisoned = dice.random() < FAULTS
            if poisoned:
                body["prompt"] = f"a {POISON}"
            job_id = self._cluster.submit(body)
            if dice.random() < CANCELS:
                self._cluster.call(f"/v1/jobs/{job_id}/cancel", {})
            with suppress(OSError):  # a watch may be cut; asking again and again would cost more than the drawing
                self._cluster.watch(job_id, at_most=MOST_STATES)
            end = self._cluster.end_of(job_id, ENDS_WITHIN_S)
            status = "lost" if end is None else end["status"]
            self.ended[status] += 1
            if status == "lost" or (status == "failed") != (poisoned and status != "cancelled"):
                self.lost.append(f"{job_id}: {status}")

    @property
    def jobs(self) -> int:
        """How many have ended."""
        return self.ended.total()


def sample(process: psutil.Process, jobs: int) -> Sample:
    """Look at a process. Raises psutil.Error where it has gone."""
    private = process.memory_full_info().uss / 2**20
    return Sample(jobs, private, process.num_fds(), process.num_threads())


def growth(name: str, pid: int, samples: Sequence[Sample]) -> Growth | None:
    """Return what became of a process; None where too little was seen of it."""
    settled = samples[round(len(samples) * SETTLED) :]
    third = len(settled) // 3
    if not third or settled[-1].jobs - settled[0].jobs < LEAST_JOBS:
        return None
    slope = linear_regression([s.jobs for s in settled], [s.private_mb for s in settled]).slope
    first, last = settled[:third], settled[-third:]
    return Growth(
        name=name,
        pid=pid,
        jobs=settled[-1].jobs - settled[0].jobs,
        private_mb=round(settled[-1].private_mb, 1),
        mb_per_1000_jobs=round(1000 * slope, 2),
        more_files=median(s.files for s in last) - median(s.files for s in first),
        more_threads=median(s.threads for s in last) - median(s.threads for s in first),
        course=[(s.jobs, round(s.private_mb, 1)) for s in samples],
    )


def soak(cluster: Cluster, minutes: float, seed: int) -> tuple[Load, list[Growth]]:
    """Run the load for so long; a third of the way the model is replaced, at two thirds a Denoiser is taken away.

    It comes back a little later, so that what is held at the end is compared among as many processes as before.
    """
    other = scaled_checkpoint(cluster.folder / "poisoned", cluster.folder / "other", 1.01)
    load = Load(cluster, seed)
    seen: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    events: list[tuple[float, Any]] = [
        (minutes * 20, lambda config: application(config, "shapes")["args"].update(checkpoint=str(other))),
        (minutes * 40, lambda config: denoiser(config).update(num_replicas=1)),
        (minutes * 46, lambda config: denoiser(config).update(num_replicas=2)),
    ]
    start = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        futures = [clients.submit(load.client, number) for number in range(CLIENTS)]
        try:
            while (now_s := time.monotonic() - start) < minutes * 60:
                if events and now_s > events[0][0]:
                    config = cluster.config
                    events.pop(0)[1](config)
                    cluster.deploy(config, wait=False)
                time.sleep(RESTED_EVERY_S)
                load.goes_on.clear()
                cluster.rest()
                time.sleep(REST_S)
                for name, process in cluster.processes():
                    with suppress(psutil.Error):
                        seen[name, process.pid].append(sample(process, load.jobs))
                print(f"{time.monotonic() - start:6.0f} s  {load.jobs} jobs {dict(load.ended)}", flush=True)
                load.goes_on.set()
        finally:
            load.over.set()
            load.goes_on.set()
        for future in futures:
            future.result()
    found = [growth(name, pid, samples) for (name, pid), samples in seen.items()]
    return load, [each for each in found if each]


def table(grown: Sequence[Growth]) -> str:
    """One line a process."""
    lines = [
        "| process | jobs | private MiB | MiB per 1,000 jobs | file descriptors | threads |",
        "|---|---|---|---|---|---|",
    ]
    for each in sorted(grown, key=lambda g: g.name):
        lines.append(
            f"| {each.name} | {each.jobs} | {each.private_mb:g} | {each.mb_per_1000_jobs:+.2f} "
            f"| {each.more_files:+g} | {each.more_threads:+g} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Soak; 1 if a job was lost or a process grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--minutes", type=float, default=30.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as state, running_cluster(Path(state), args.seed, denoisers=2) as cluster:
        load, grown = soak(cluster, args.minutes, args.seed)
    held = not load.lost and bool(grown) and all(each.held for each in grown)  # nothing judged, nothing held
    print(
        f"seed {args.seed}\n\n{table(grown)}\n\n{load.jobs} jobs: {dict(load.ended)}; not as they should: {load.lost}"
    )
    figures = {"minutes": args.minutes, "seed": args.seed, "jobs": load.jobs, "wrong": load.lost, "held": held}
    print(json.dumps({"benchmark": "soak", **figures, "processes": [each.__dict__ for each in grown]}))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
