"""How long a request takes while others come: open-loop arrivals, a third each of 4, 20 and 50 steps.

The whole pipeline behind `@serve.batch` and Darkroom over HTTP get the same requests at the same moments, at 80 % of
what the former can draw. Clients do not wait for one another, so that a line that grows is seen.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence

from benchmarks.arrivals import Arrival, Draw, at_random, latencies, over_http
from benchmarks.contenders import running_batched
from benchmarks.harness import finish, running_service
from benchmarks.requests import THREADS, a_request

STEPS = (4, 20, 50)
REQUESTS = 150
LOAD = 0.8

BySteps = dict[int, list[float]]  # seconds


def arrivals(rate: float) -> list[Arrival]:
    """A third each of `STEPS`, in a random order at random moments."""
    rng = random.Random(3)
    steps = [STEPS[k % len(STEPS)] for k in range(REQUESTS)]
    rng.shuffle(steps)
    return at_random([a_request(seed, count) for seed, count in enumerate(steps)], rate, rng)


def by_steps(planned: Sequence[Arrival], taken: Sequence[float]) -> BySteps:
    """Sort what each arrival took by the steps that it asked for."""
    seconds: BySteps = {count: [] for count in STEPS}
    for (_, spec), latency in zip(planned, taken, strict=True):
        seconds[spec.num_inference_steps].append(latency)
    return seconds


async def capacity(draw: Draw) -> float:
    """Pictures a second of the same mix when all are there at once."""
    specs = [a_request(seed, STEPS[seed % len(STEPS)]) for seed in range(48)]
    await asyncio.gather(*(draw(spec) for spec in specs[:6]))
    start = time.perf_counter()
    await asyncio.gather(*(draw(spec) for spec in specs))
    return len(specs) / (time.perf_counter() - start)


def by_batches() -> tuple[float, BySteps]:
    """The rate that loads it by `LOAD`, and its latencies."""
    with running_batched() as handle:

        async def both() -> tuple[float, BySteps]:
            rate = LOAD * await capacity(handle.draw.remote)
            planned = arrivals(rate)
            return rate, by_steps(planned, await latencies(handle.draw.remote, planned))

        return asyncio.run(both())


def by_service(rate: float) -> BySteps:
    """Darkroom's latencies at the same rate."""
    planned = arrivals(rate)
    with running_service() as service:
        return by_steps(planned, over_http(service, planned, warm=[a_request(seed, 4) for seed in range(6)]))


def p99(seconds: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(seconds)[round(0.99 * (len(seconds) - 1))]


def main() -> None:
    """Print the table."""
    rate, batched = by_batches()
    service = by_service(rate)
    print(f"{REQUESTS} requests, {rate:.2f} a second ({LOAD:.0%} of what the pipeline behind @serve.batch can draw),")
    print(f"{THREADS} threads; seconds from arrival to picture\n")
    print(f"{'':10}{'@serve.batch':>24}{'Darkroom':>24}{'times lower':>24}")
    print(f"{'steps':10}" + f"{'mean':>12}{'p99':>12}" * 3)
    figures = {}
    for count in STEPS:
        theirs = statistics.mean(batched[count]), p99(batched[count])
        ours = statistics.mean(service[count]), p99(service[count])
        lower = [a / b for a, b in zip(theirs, ours, strict=True)]
        print(f"{count:<10}" + "".join(f"{value:12.2f}" for value in (*theirs, *ours, *lower)))
        figures[count] = {"batched_mean_s": theirs[0], "batched_p99_s": theirs[1], "mean_s": ours[0], "p99_s": ours[1]}
    rounded = {count: {name: round(value, 3) for name, value in row.items()} for count, row in figures.items()}
    finish("latency", {"rate": round(rate, 3), "steps": rounded})


if __name__ == "__main__":
    main()
