"""Who competes: the diffusers pipeline, the same behind `@serve.batch`, Darkroom's stages in one process.

All draw the same requests with the same weights in float32 and `THREADS` threads, from prompt to PNG.
"""

import asyncio
import io
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from ray import serve
from ray.serve.handle import DeploymentHandle

from benchmarks.harness import ROOT
from models.checkpoint.card import read_card
from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine
from models.denoiser.model import load_denoiser
from models.denoiser.preview import Preview
from models.denoiser.state import DenoiseState, new_state
from models.image_file import encode_image
from models.samplers import new_scheduler
from models.spec import ImageSpec, StepUpdate
from models.text_encoder import load_text_encoder
from models.vae import load_vae

SHAPES = ROOT / "models" / "checkpoints" / "shapes"
CARD = read_card(str(SHAPES))
CPU = torch.device("cpu")
THREADS = min(os.cpu_count() or 1, 8)
MAX_ROWS = 16
DECODED_TOGETHER = 4


def a_request(seed: int, steps: int, guidance: float = 4.0, sampler: str = "ddim") -> ImageSpec:
    """One picture of the shapes model."""
    colours, shapes = ("red", "blue", "green", "yellow"), ("circle", "star", "heart")
    prompt = f"a {colours[seed % 4]} {shapes[seed % 3]} on a white background"
    chosen = dict(CARD.defaults) | {"num_inference_steps": steps, "guidance_scale": guidance, "sampler": sampler}
    return CARD.spec(model=CARD.id, prompt=prompt, seed=seed, **chosen)


class Pipeline:
    """The diffusers pipeline: one call draws requests that agree in all but prompt and seed."""

    def __init__(self) -> None:
        torch.set_num_threads(THREADS)
        self._pipeline = StableDiffusionPipeline.from_pretrained(SHAPES)
        self._pipeline.set_progress_bar_config(disable=True)
        self._config = dict(self._pipeline.scheduler.config)

    def draw(self, specs: Sequence[ImageSpec]) -> list[bytes]:
        """Return PNGs."""
        first = specs[0]
        self._pipeline.scheduler = new_scheduler(self._config, first.sampler)
        images = self._pipeline(
            [spec.prompt for spec in specs],
            num_inference_steps=first.num_inference_steps,
            guidance_scale=first.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(spec.seed) for spec in specs],
        ).images
        return [_png(image) for image in images]


def _png(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "png")
    return target.getvalue()


class Batched:
    """The whole pipeline as one deployment; requests that agree in all parameters share a call."""

    def __init__(self) -> None:
        self._pipeline = Pipeline()

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
                for index, png in zip(chunk, self._pipeline.draw([batch[i] for i in chunk]), strict=True):
                    pictures[index] = png
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


class Stages:
    """Darkroom's stages, called in a row: encode all, step, decode what is finished in fours."""

    def __init__(self) -> None:
        torch.set_num_threads(THREADS)
        self._text_encoder = load_text_encoder(SHAPES, CARD.family, CPU)
        self._vae = load_vae(SHAPES, CARD.family, CPU)
        self._model = load_denoiser(SHAPES, CARD.family, CPU)
        self._sizer = BatchSizer(self._model, MAX_ROWS)
        self._key = self._model.expected_key(CARD.defaults["width"], CARD.defaults["height"], CARD.max_tokens)
        self._sizer.warm_up(self._key)
        self._told: list[tuple[DenoiseState, StepUpdate]] = []
        self._engine = DenoisingEngine(self._model, self._told.extend, sizer=self._sizer, preview=Preview(()))
        self.forward_rows: Counter[int] = Counter()
        self.engine_s = 0.0
        self.decode_s = 0.0

    @torch.inference_mode()
    def draw(self, specs: Sequence[ImageSpec]) -> list[bytes]:
        """Return PNGs, in the order in which they were finished."""
        for spec, encoded in zip(specs, self._text_encoder.encode(specs), strict=True):
            self._engine._batcher.add(new_state(spec, encoded, self._model.plan(spec), self._model))
        pictures: list[bytes] = []
        finished: list[tuple[ImageSpec, StepUpdate]] = []
        while len(self._engine._batcher):
            start = time.perf_counter()
            self._engine.step()
            self.engine_s += time.perf_counter() - start
            self.forward_rows[self._told[0][1].batch_rows] += 1
            finished += [(state.spec, update) for state, update in self._told if update.latents is not None]
            self._told.clear()
            if len(finished) >= DECODED_TOGETHER or not len(self._engine._batcher):
                pictures += self._decode(finished)
                finished = []
        return pictures

    def _decode(self, finished: Sequence[tuple[ImageSpec, StepUpdate]]) -> list[bytes]:
        start = time.perf_counter()
        pixels = self._vae.decode([update.latents for _, update in finished])
        pictures = [encode_image(one, spec, CARD.digest) for one, (spec, _) in zip(pixels, finished, strict=True)]
        self.decode_s += time.perf_counter() - start
        return pictures

    def forward_s(self, rows: int, repeats: int = 9) -> float:
        """Median seconds of a bare forward of `rows` rows."""
        batch = self._model.example(self._key, rows)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._model.predict(batch)
            seconds.append(time.perf_counter() - start)
        return sorted(seconds)[repeats // 2]
