"""How long a request takes while others come: open-loop arrivals, a third each of 4, 20 and 50 steps.

The whole pipeline behind `@serve.batch` and Darkroom over HTTP get the same requests at the same moments, at 80 % of
what the former can draw. Clients do not wait for one another, so that a line that grows is seen.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.contenders import THREADS, a_request, running_batched
from benchmarks.harness import finish, running_service
from models.spec import ImageSpec

STEPS = (4, 20, 50)
REQUESTS = 150
LOAD = 0.8
FIELDS = ("prompt", "num_inference_steps", "guidance_scale", "sampler", "seed")

Draw = Callable[[ImageSpec], Awaitable[object]]


def arrivals(rate: float) -> list[tuple[float, ImageSpec]]:
    """Poisson arrivals at `rate` a second: seconds from the start, and what is asked for."""
    rng = random.Random(3)
    steps = [STEPS[k % len(STEPS)] for k in range(REQUESTS)]
    rng.shuffle(steps)
    moment, planned = 0.0, []
    for seed, count in enumerate(steps):
        moment += rng.expovariate(rate)
        planned.append((moment, a_request(seed, count)))
    return planned


async def capacity(draw: Draw) -> float:
    """Pictures a second of the same mix when all are there at once."""
    specs = [a_request(seed, STEPS[seed % len(STEPS)]) for seed in range(48)]
    await asyncio.gather(*(draw(spec) for spec in specs[:6]))
    start = time.perf_counter()
    await asyncio.gather(*(draw(spec) for spec in specs))
    return len(specs) / (time.perf_counter() - start)


async def latencies(draw: Draw, planned: Sequence[tuple[float, ImageSpec]]) -> dict[int, list[float]]:
    """Seconds from arrival to picture, by steps."""
    seconds: dict[int, list[float]] = {count: [] for count in STEPS}
    start = time.perf_counter()

    async def one(moment: float, spec: ImageSpec) -> None:
        await asyncio.sleep(start + moment - time.perf_counter())
        await draw(spec)
        seconds[spec.num_inference_steps].append(time.perf_counter() - start - moment)

    await asyncio.gather(*(one(moment, spec) for moment, spec in planned))
    return seconds


def by_batches() -> tuple[float, dict[int, list[float]]]:
    """The rate that loads it by `LOAD`, and its latencies."""
    with running_batched() as handle:

        async def both() -> tuple[float, dict[int, list[float]]]:
            rate = LOAD * await capacity(handle.draw.remote)
            return rate, await latencies(handle.draw.remote, arrivals(rate))

        return asyncio.run(both())


def by_service(rate: float) -> dict[int, list[float]]:
    """Darkroom's latencies at the same rate."""
    with running_service() as service, ThreadPoolExecutor(REQUESTS) as clients:

        async def draw(spec: ImageSpec) -> None:
            body = {name: getattr(spec, name) for name in FIELDS}
            await asyncio.get_running_loop().run_in_executor(clients, service.call, "/v1/images/generations", body)

        async def warmed() -> dict[int, list[float]]:
            await asyncio.gather(*(draw(a_request(seed, 4)) for seed in range(6)))
            return await latencies(draw, arrivals(rate))

        return asyncio.run(warmed())


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
