"""Who competes: the diffusers pipelines behind `@serve.batch`, and in processes of their own, one a core.

All generate the images of the same requests as Darkroom's stages, with the same weights in float32, from prompt to PNG.
"""

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.synchronize import Barrier

import ray
import torch
from ray import serve
from ray.serve.handle import DeploymentHandle

from benchmarks.pipelines import Pipelines
from benchmarks.requests import MAX_ROWS, THREADS, Requests
from models.spec import ImageSpec


class Batched:
    """The whole pipeline as one deployment; requests that agree in all parameters share a call."""

    def __init__(self) -> None:
        torch.set_num_threads(THREADS)
        self._pipelines = Pipelines()

    @serve.batch(max_batch_size=48, batch_wait_timeout_s=0.02)
    async def draw(self, batch: list[ImageSpec]) -> list[bytes]:
        """Return one PNG a request."""
        return await asyncio.to_thread(self._draw, batch)

    def _draw(self, batch: list[ImageSpec]) -> list[bytes]:
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, spec in enumerate(batch):
            alike = spec.sampler, spec.num_inference_steps, spec.guidance_scale, spec.width, spec.height
            groups.setdefault(alike, []).append(index)
        pictures = [b""] * len(batch)
        for indices in groups.values():
            together = MAX_ROWS // batch[indices[0]].rows
            for start in range(0, len(indices), together):
                chunk = indices[start : start + together]
                drawn = self._pipelines.generate(Requests([batch[i] for i in chunk]))
                for index, content in zip(chunk, drawn, strict=True):
                    pictures[index] = content
        return pictures


@contextmanager
def running_batched() -> Iterator[DeploymentHandle]:
    """Serve `Batched` on a Ray of its own; its `draw` is called by handle, which spares it HTTP."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        options = {"max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 0}}
        yield serve.run(serve.deployment(**options)(Batched).bind())
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def running_pipelines() -> Iterator[Callable[[Requests], list[list[bytes]]]]:
    """Start a process of the pipelines on each core, with one thread; whichever is free takes the next request.

    Yields what generates the images of requests one by one.
    """
    context = multiprocessing.get_context("spawn")
    loaded = context.Barrier(THREADS + 1)
    with context.Pool(THREADS, _load, (loaded,)) as pool:
        loaded.wait()
        yield lambda requests: pool.map(_generate, requests.split(1), chunksize=1)
        pool.close()
        pool.join()


@cache
def _pipelines() -> Pipelines:
    return Pipelines()


def _load(loaded: Barrier) -> None:
    torch.set_num_threads(1)
    _pipelines()
    loaded.wait()


def _generate(requests: Requests) -> list[bytes]:
    return _pipelines().generate(requests)
