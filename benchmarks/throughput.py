"""Pictures a second, four ways, over the same two lists of 48 requests, from prompt to PNG.

    pipeline   the diffusers pipeline, one request at a time: how Spaces demos serve
    batched    the whole pipeline behind `@serve.batch`; requests that agree in all parameters share a call
    stages     Darkroom's three stages in this process
    service    Darkroom over HTTP, as `serve_config.yaml` has it: one Denoiser of one thread
    a core     the same with as many Denoisers as the others have threads

The first list mixes samplers, steps and guidance. The second has one sampler, one guidance and three step counts, which
is as kind to `batched` as clients get. Each way runs alone on the machine; all take turns, twice. Then what settings
make of the service, with the first list.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psutil
import torch

from benchmarks.contenders import running_batched
from benchmarks.harness import Service, finish, running_service
from benchmarks.pipelines import Pipelines
from benchmarks.requests import MAX_ROWS, THREADS, Requests, a_request, body_of
from benchmarks.stages import Stages
from models.spec import ImageSpec

REQUESTS = 48
TURNS = 2
ROUNDS = 2  # a turn
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "bfloat16": {"args": {"model": {"dtype": "bfloat16"}}},
    "compiled": {"args": {"denoiser": {"compile": True}}},
    "both": {"args": {"model": {"dtype": "bfloat16"}, "denoiser": {"compile": True}}},
    "batch_invariant": {"args": {"model": {"batch_invariant": True}}},
}


def mixed_list() -> list[ImageSpec]:
    """Steps from 8 to 30, guidance 1, 4 or 7, four samplers."""
    rng = random.Random(1)
    samplers = ("ddim", "euler", "dpmpp_2m", "unipc")
    return [
        a_request(seed, rng.randint(8, 30), rng.choice((1.0, 4.0, 7.0)), rng.choice(samplers))
        for seed in range(REQUESTS)
    ]


def even_list() -> list[ImageSpec]:
    """Steps 10, 20 or 30, all else equal."""
    rng = random.Random(2)
    return [a_request(seed, rng.choice((10, 20, 30))) for seed in range(REQUESTS)]


def rounds(draw_all: Callable[[Sequence[ImageSpec]], object], specs: Sequence[ImageSpec]) -> list[float]:
    """Seconds of each round, after a few requests to warm up."""
    draw_all(specs[:4])
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        draw_all(specs)
        seconds.append(time.perf_counter() - start)
    return seconds


def by_pipeline(specs: Sequence[ImageSpec]) -> list[float]:
    """One request at a time."""
    pipelines = Pipelines()
    return rounds(lambda some: [pipelines.generate(Requests([spec])) for spec in some], specs)


def by_batches(specs: Sequence[ImageSpec]) -> list[float]:
    """All requests at once, by handle."""

    async def all_at_once(some: Sequence[ImageSpec]) -> None:
        await asyncio.gather(*(handle.draw.remote(spec) for spec in some))

    with running_batched() as handle:
        return rounds(lambda some: asyncio.run(all_at_once(some)), specs)


def by_stages(specs: Sequence[ImageSpec]) -> list[float]:
    """All requests at once; prints how near the engine comes to the model's own speed."""
    stages = Stages()
    seconds = rounds(lambda some: stages.generate(Requests(some)), specs)
    row_calls = sum(rows * count for rows, count in stages.forward_rows.items())
    bare = {rows: stages.forward_s(rows) for rows in {*stages.forward_rows, MAX_ROWS}}
    forwards = sum(bare[rows] * count for rows, count in stages.forward_rows.items())
    ceiling = row_calls * bare[MAX_ROWS] / MAX_ROWS
    mean_rows = row_calls / sum(stages.forward_rows.values())
    print(f"  stages: {mean_rows:.1f} rows a forward, engine {stages.engine_s:.1f} s, decoding {stages.decode_s:.1f} s")
    print(f"  of the engine's time its forwards, bare, take {forwards / stages.engine_s:.0%}; with {MAX_ROWS} rows in")
    print(f"  every forward, the ceiling, they would take {ceiling / stages.engine_s:.0%}")
    return seconds


def by_service(specs: Sequence[ImageSpec], **settings: Any) -> list[float]:
    """All requests at once over HTTP; prints which processes the CPU's time went to."""
    with running_service(**settings) as service, ThreadPoolExecutor(len(specs)) as clients:

        def draw(spec: ImageSpec) -> None:
            service.call("/v1/images/generations", body_of(spec))

        before, start = cpu_seconds(service), time.perf_counter()
        seconds = rounds(lambda some: list(clients.map(draw, some)), specs)
        took, after = time.perf_counter() - start, cpu_seconds(service)
    used = {name: after[name] - before.get(name, 0.0) for name in after}
    cores = psutil.cpu_count() or 1
    busiest = sorted(used.items(), key=lambda item: -item[1])[:6]
    print(f"  service: of {cores} cores × {took:.1f} s, ", end="")
    print(", ".join(f"{name} {spent / took / cores:.0%}" for name, spent in busiest))
    return seconds


def cpu_seconds(service: Service) -> dict[str, float]:
    """CPU seconds of every process of a service so far, by name."""
    found: dict[str, float] = {}
    for process in psutil.Process(service.pid).children(recursive=True):
        times = process.cpu_times()
        title = " ".join(process.cmdline()[:1]) or process.name()
        name = title.split(":")[-1].split("/")[-1].split(" ")[0]
        found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def compare(title: str, specs: Sequence[ImageSpec]) -> dict[str, float]:
    """Print one list's table; return pictures a second by way."""
    ways = {
        "pipeline": by_pipeline,
        "batched": by_batches,
        "stages": by_stages,
        "service": by_service,
        "a core": partial(by_service, denoisers=THREADS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    print(f"\n{title}", flush=True)
    for _ in range(TURNS):
        for name, run in ways.items():
            seconds[name] += run(specs)
    speed = {name: len(specs) / statistics.median(times) for name, times in seconds.items()}
    print(f"\n{'':12}{'pictures/s':>12}{'× pipeline':>12}{'× batched':>12}")
    for name, value in speed.items():
        print(f"{name:12}{value:12.2f}{value / speed['pipeline']:12.2f}{value / speed['batched']:12.2f}", flush=True)
    return {name: round(value, 3) for name, value in speed.items()}


def compare_settings(specs: Sequence[ImageSpec]) -> dict[str, float]:
    """Print what each of `SETTINGS` makes of the service; return pictures a second."""
    speed = {}
    for name, settings in SETTINGS.items():
        print(f"\n{name}", flush=True)
        speed[name] = round(len(specs) / statistics.median(by_service(specs, **settings)), 3)
    print(f"\n{'':16}{'pictures/s':>12}{'× as it is':>12}")
    for name, value in speed.items():
        print(f"{name:16}{value:12.2f}{value / speed['as it is']:12.2f}")
    return speed


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(THREADS)
    print(f"{REQUESTS} requests, {THREADS} threads, float32, {TURNS * ROUNDS} rounds each, medians")
    mixed = compare("mixed samplers, steps and guidance", mixed_list())
    even = compare("one sampler and guidance, steps 10, 20 or 30", even_list())
    settings = compare_settings(mixed_list())
    finish("throughput", {"threads": THREADS, "mixed": mixed, "even": even, "settings": settings})


if __name__ == "__main__":
    main()
