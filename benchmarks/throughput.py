"""Pictures a second over lists of 48 requests, from prompt to PNG.

    pipeline         the diffusers pipelines, one request at a time: how Spaces demos serve
    batched          the whole pipeline behind `@serve.batch`; requests that agree in all parameters share a call
    pipelines a core the diffusers pipelines in as many processes as there are threads, with one each
    stages           Darkroom's three stages in this process
    service          Darkroom over HTTP, as `serve_config.yaml` has it: one Denoiser of one thread
    a core           the same with as many Denoisers as the others have threads

The first list mixes samplers, steps and guidance. The second has one sampler, one guidance and three step counts, which
is as kind to `batched` as clients get. The third is the first with images to begin with: a quarter is image-to-image, a
quarter inpainting. Its pictures are new in each round, so nobody has decoded or encoded them before; the service has
their files already, the others hold them. Each way runs alone on the machine; all take turns, twice. Then what settings
make of the service, with the first list.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import psutil
import torch

from benchmarks.contenders import running_batched, running_pipelines
from benchmarks.harness import Service, finish, running_service
from benchmarks.pipelines import Pipelines
from benchmarks.requests import MAX_ROWS, THREADS, Requests, a_request, body_of, together
from benchmarks.stages import Stages
from training.shapes.evaluate_edits import begun, new_edit
from training.shapes.scenes import random_scene

REQUESTS = 48
TURNS = 2
ROUNDS = 2  # a turn
WARM_UP = 4  # requests before a turn's first round
STRENGTHS = (0.4, 0.6, 0.8, 1.0)
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "bfloat16": {"args": {"model": {"dtype": "bfloat16"}}},
    "compiled": {"args": {"denoiser": {"compile": True}}},
    "both": {"args": {"model": {"dtype": "bfloat16"}, "denoiser": {"compile": True}}},
    "batch_invariant": {"args": {"model": {"batch_invariant": True}}},
}


Lists = Sequence[Requests]  # one to warm up with, and one for each round
Way = Callable[[Lists], list[float]]
T = TypeVar("T")


def mixed_list(count: int) -> Requests:
    """Steps from 8 to 30, guidance 1, 4 or 7, four samplers."""
    rng = random.Random(1)
    samplers = ("ddim", "euler", "dpmpp_2m", "unipc")
    return Requests(
        [
            a_request(seed, rng.randint(8, 30), rng.choice((1.0, 4.0, 7.0)), rng.choice(samplers))
            for seed in range(count)
        ]
    )


def even_list(count: int) -> Requests:
    """Steps 10, 20 or 30, all else equal."""
    rng = random.Random(2)
    return Requests([a_request(seed, rng.choice((10, 20, 30))) for seed in range(count)])


def edit_list(count: int, number: int) -> Requests:
    """The mixed list; of four requests one begins with an image, one with an image and a mask: others by `number`."""
    rng, strengths = np.random.default_rng(number), random.Random(3)
    parts = mixed_list(count).split(1)
    for index, part in enumerate(parts):
        if index % 4 > 1:
            edit = new_edit(random_scene(rng), rng, "colour", "shape")
            parts[index] = begun(part.specs[0], edit, strengths.choice(STRENGTHS), masked=index % 4 == 3)
    return together(parts)


def repeated(requests: Requests) -> Lists:
    """Warm up with a few of the requests, then the same ones in each round."""
    return [requests.split(WARM_UP)[0], *[requests] * ROUNDS]


def edit_lists(count: int) -> Lists:
    """As `repeated`, with other pictures each time."""
    return [edit_list(WARM_UP, 0), *(edit_list(count, number) for number in range(1, ROUNDS + 1))]


def rounds(draw_all: Callable[[T], object], lists: Sequence[T]) -> list[float]:
    """Seconds of each round."""
    warm_up, *measured = lists
    draw_all(warm_up)
    seconds = []
    for requests in measured:
        start = time.perf_counter()
        draw_all(requests)
        seconds.append(time.perf_counter() - start)
    return seconds


def by_pipeline(lists: Lists) -> list[float]:
    """One request at a time."""
    pipelines = Pipelines()
    return rounds(lambda requests: [pipelines.generate(one) for one in requests.split(1)], lists)


def by_pipelines_a_core(lists: Lists) -> list[float]:
    """One request at a time in each process."""
    with running_pipelines() as draw_all:
        return rounds(draw_all, lists)


def by_batches(lists: Lists) -> list[float]:
    """All requests at once, by handle."""

    async def all_at_once(requests: Requests) -> None:
        await asyncio.gather(*(handle.draw.remote(spec) for spec in requests.specs))

    with running_batched() as handle:
        return rounds(lambda requests: asyncio.run(all_at_once(requests)), lists)


def by_stages(lists: Lists) -> list[float]:
    """All requests at once; prints how near the engine comes to the model's own speed."""
    stages = Stages()
    seconds = rounds(stages.generate, lists)
    row_calls = sum(rows * count for rows, count in stages.forward_rows.items())
    bare = {rows: stages.forward_s(rows) for rows in {*stages.forward_rows, MAX_ROWS}}
    forwards = sum(bare[rows] * count for rows, count in stages.forward_rows.items())
    ceiling = row_calls * bare[MAX_ROWS] / MAX_ROWS
    mean_rows = row_calls / sum(stages.forward_rows.values())
    print(f"  stages: {mean_rows:.1f} rows a forward, engine {stages.engine_s:.1f} s, decoding {stages.decode_s:.1f} s")
    print(f"  of the engine's time its forwards, bare, take {forwards / stages.engine_s:.0%}; with {MAX_ROWS} rows in")
    print(f"  every forward, the ceiling, they would take {ceiling / stages.engine_s:.0%}")
    return seconds


def by_service(lists: Lists, **settings: Any) -> list[float]:
    """All requests at once over HTTP; prints which processes the CPU's time went to."""
    with running_service(**settings) as service, ThreadPoolExecutor(len(lists[-1].specs)) as clients:

        def draw_all(bodies: Sequence[dict[str, Any]]) -> None:
            list(clients.map(partial(service.call, "/v1/images/generations"), bodies))

        prepared = [bodies_for(service, requests) for requests in lists]
        before, start = cpu_seconds(service), time.perf_counter()
        seconds = rounds(draw_all, prepared)
        took, after = time.perf_counter() - start, cpu_seconds(service)
    used = {name: after[name] - before.get(name, 0.0) for name in after}
    cores = psutil.cpu_count() or 1
    busiest = sorted(used.items(), key=lambda item: -item[1])[:6]
    print(f"  service: of {cores} cores × {took:.1f} s, ", end="")
    print(", ".join(f"{name} {spent / took / cores:.0%}" for name, spent in busiest))
    return seconds


def bodies_for(service: Service, requests: Requests) -> list[dict[str, Any]]:
    """Upload the files of requests; return their bodies."""
    ids: dict[str | None, str] = {name: service.upload(content) for name, content in requests.files.items()}
    inits = [
        spec.init and replace(spec.init, input=ids[spec.init.input], mask=ids.get(spec.init.mask))
        for spec in requests.specs
    ]
    return [body_of(replace(spec, init=init)) for spec, init in zip(requests.specs, inits, strict=True)]


def cpu_seconds(service: Service) -> dict[str, float]:
    """CPU seconds of every process of a service so far, by name."""
    found: dict[str, float] = {}
    for process in psutil.Process(service.pid).children(recursive=True):
        times = process.cpu_times()
        title = " ".join(process.cmdline()[:1]) or process.name()
        name = title.split(":")[-1].split("/")[-1].split(" ")[0]
        found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def compare(title: str, lists: Lists, rivals: Mapping[str, Way]) -> dict[str, float]:
    """Print the table of one list; return pictures a second by way."""
    ways = {
        **rivals,
        "stages": by_stages,
        "service": by_service,
        "a core": partial(by_service, denoisers=THREADS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    print(f"\n{title}", flush=True)
    for _ in range(TURNS):
        for name, run in ways.items():
            seconds[name] += run(lists)
    speed = {name: len(lists[-1].specs) / statistics.median(times) for name, times in seconds.items()}
    print(f"\n{'':18}{'pictures/s':>12}" + "".join(f"{f'× {rival}':>20}" for rival in rivals))
    for name, value in speed.items():
        print(f"{name:18}{value:12.2f}" + "".join(f"{value / speed[rival]:20.2f}" for rival in rivals), flush=True)
    return {name: round(value, 3) for name, value in speed.items()}


def compare_settings(lists: Lists) -> dict[str, float]:
    """Print what each of `SETTINGS` makes of the service; return pictures a second."""
    speed = {}
    for name, settings in SETTINGS.items():
        print(f"\n{name}", flush=True)
        speed[name] = round(len(lists[-1].specs) / statistics.median(by_service(lists, **settings)), 3)
    print(f"\n{'':16}{'pictures/s':>12}{'× as it is':>12}")
    for name, value in speed.items():
        print(f"{name:16}{value:12.2f}{value / speed['as it is']:12.2f}")
    return speed


def main() -> None:
    """Print the tables."""
    batched: Mapping[str, Way] = {"pipeline": by_pipeline, "batched": by_batches}
    processes: Mapping[str, Way] = {"pipeline": by_pipeline, "pipelines a core": by_pipelines_a_core}
    tables: Mapping[str, Callable[[int], dict[str, float]]] = {
        "mixed": lambda count: compare("mixed samplers, steps and guidance", repeated(mixed_list(count)), batched),
        "even": lambda count: compare(
            "one sampler and guidance, steps 10, 20 or 30", repeated(even_list(count)), batched
        ),
        "edits": lambda count: compare(
            "mixed, half text alone, a quarter image-to-image, a quarter inpainting", edit_lists(count), processes
        ),
        "settings": lambda count: compare_settings(repeated(mixed_list(count))),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of a list")
    parser.add_argument("--tables", nargs="+", choices=tables, default=[*tables])
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    print(f"{args.requests} requests, {THREADS} threads, float32, {TURNS * ROUNDS} rounds each, medians")
    finish("throughput", {"threads": THREADS} | {name: tables[name](args.requests) for name in args.tables})


if __name__ == "__main__":
    main()
