"""Clients that do not wait for one another: requests at random moments, and how long each takes."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.harness import Service
from benchmarks.requests import body_of
from models.spec import ImageSpec

Arrival = tuple[float, ImageSpec]  # seconds from the start, and what is asked for
Draw = Callable[[ImageSpec], Awaitable[object]]


def at_random(specs: Sequence[ImageSpec], rate: float, rng: random.Random) -> list[Arrival]:
    """Poisson arrivals at `rate` a second."""
    moment, arrivals = 0.0, []
    for spec in specs:
        moment += rng.expovariate(rate)
        arrivals.append((moment, spec))
    return arrivals


async def latencies(draw: Draw, arrivals: Sequence[Arrival]) -> list[float]:
    """Seconds from each arrival to its picture."""
    start = time.perf_counter()

    async def one(moment: float, spec: ImageSpec) -> float:
        await asyncio.sleep(start + moment - time.perf_counter())
        await draw(spec)
        return time.perf_counter() - start - moment

    return await asyncio.gather(*(one(moment, spec) for moment, spec in arrivals))


def over_http(service: Service, arrivals: Sequence[Arrival], warm: Sequence[ImageSpec]) -> list[float]:
    """The same from a service, once it has drawn the `warm` ones all at once."""

    async def both(clients: ThreadPoolExecutor) -> list[float]:
        async def draw(spec: ImageSpec) -> None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(clients, service.call, "/v1/images/generations", body_of(spec))

        await asyncio.gather(*map(draw, warm))
        return await latencies(draw, arrivals)

    with ThreadPoolExecutor(len(arrivals)) as clients:
        return asyncio.run(both(clients))
