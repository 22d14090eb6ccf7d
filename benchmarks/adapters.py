"""What LoRAs cost a step, and what serving them row by row gains.

First, milliseconds of a forward of the shapes model's UNet: 16 rows without LoRAs, and with 8 others, two rows each, by
rank. Then images a second of 24 requests that name 8 LoRAs in turn, three ways:

    load      the diffusers pipeline: load, generate, unload, one by one
    switch    the diffusers pipeline with all 8 loaded, `set_adapters` before each request
    rows      Darkroom's engine, every row with its own

Last, a LoRA of about 200 MB for a UNet of Stable Diffusion 1.5's shape: seconds from the rename that completes its file
until a row can add it, and what steps of rows of the shapes model take while another thread loads it.
"""

import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from benchmarks.gpu import SD_15
from benchmarks.harness import finish
from benchmarks.loading import filled
from benchmarks.requests import CARD, MAX_ROWS, SHAPES, THREADS, a_request
from benchmarks.stages import CPU
from deployments.stages.model import SCAN_INTERVAL_S
from models.adapters.lora_bank import LoraBank, LowRank, RowRanks
from models.adapters.lora_file import read_lora
from models.adapters.lora_folder import LoraFolder
from models.adapters.resident_loras import ResidentLoras
from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine
from models.denoiser.model import DenoiserModel, load_denoiser
from models.denoiser.preview import Preview
from models.denoiser.state import new_state
from models.spec import ImageSpec, Lora
from models.text_encoder import EncodedPrompt, load_text_encoder
from models.vae import load_vae
from tests.adapters import ALL, ATTENTION, sum_of, write_lora

COUNT = 8  # LoRAs
RANKS = (4, 8, 16, 32, 64)
REQUESTS = 24
STEPS = 20
ROUNDS = 5
LARGE_RANK = 100  # of a LoRA of all modules of Stable Diffusion 1.5's UNet: about 200 MB
STEP_ROWS = 8  # that step while a LoRA is loaded
LOADS = 3  # from the rename on
STEPS_A_ROUND = 60


def write_loras(folder: Path, model: DenoiserModel, rank: int) -> list[Lora]:
    """Write `COUNT` LoRAs of the attention of the UNet, as most are."""
    paths = [folder / f"{rank}-{k}.safetensors" for k in range(COUNT)]
    for seed, path in enumerate(paths):
        write_lora(path, {"unet": model._model}, rank=rank, targets=ATTENTION, seed=seed)
    return [Lora(name=path.stem, weight=1.0, sha256=sum_of(path)) for path in paths]


def resident(folder: Path, model: DenoiserModel, rank: int) -> ResidentLoras:
    """Return room for `COUNT` LoRAs."""
    bank = model.enable_loras(COUNT * rank)
    return ResidentLoras(folder, {"unet": bank}, model.read_lora, rank)


def forward_s(model: DenoiserModel, ranks: Sequence[RowRanks]) -> Callable[[], float]:
    """Return what times a forward of `MAX_ROWS` rows that add `ranks`."""
    key = model.expected_key(CARD.defaults["width"], CARD.defaults["height"], CARD.max_tokens)
    batch = model.example(key, MAX_ROWS)._replace(loras=ranks)

    def once() -> float:
        start = time.perf_counter()
        model.predict(batch)
        return time.perf_counter() - start

    return once


def step_table(folder: Path) -> dict[str, dict[str, float]]:
    """Print and return the cost of a forward by rank; with and without take turns."""
    print(f"a forward of {MAX_ROWS} rows, {THREADS} threads, median (ms)\n")
    print(f"{'rank':>6}{'without':>10}{f'{COUNT} LoRAs':>10}{'ratio':>8}")
    figures = {}
    for rank in RANKS:
        model = load_denoiser(SHAPES, CARD.family, CPU)
        loras = resident(folder, model, rank)
        ranks = [loras.hold([lora])["unet"] for lora in write_loras(folder, model, rank)]
        without, mixed = forward_s(model, ()), forward_s(model, [ranks[k % COUNT] for k in range(MAX_ROWS)])
        seconds = [(without(), mixed()) for _ in range(4 * ROUNDS)][2:]
        plain, added = (statistics.median(column) * 1000 for column in zip(*seconds, strict=True))
        print(f"{rank:>6}{plain:>10.1f}{added:>10.1f}{added / plain:>8.2f}", flush=True)
        figures[str(rank)] = {"without_ms": round(plain, 2), "with_ms": round(added, 2)}
    return figures


def asked(loras: Sequence[Lora]) -> list[ImageSpec]:
    """Return requests that name the LoRAs in turn."""
    return [replace(a_request(k, STEPS), loras=(loras[k % COUNT],)) for k in range(REQUESTS)]


def by_pipeline(folder: Path, specs: Sequence[ImageSpec], *, preloaded: bool) -> Iterator[float]:
    """Yield the seconds of each round of requests, one by one."""
    pipeline = StableDiffusionPipeline.from_pretrained(SHAPES)
    pipeline.set_progress_bar_config(disable=True)

    def load(name: str) -> None:
        pipeline.load_lora_weights(str(folder / f"{name}.safetensors"), adapter_name=name)

    for lora in {lora for spec in specs for lora in spec.loras} if preloaded else ():
        load(lora.name)
    while True:
        start = time.perf_counter()
        for spec in specs:
            if preloaded:
                pipeline.set_adapters([spec.loras[0].name], [1.0])
            else:
                load(spec.loras[0].name)
            seed = torch.Generator("cpu").manual_seed(spec.seed)
            chosen = {"num_inference_steps": spec.num_inference_steps, "guidance_scale": spec.guidance_scale}
            pipeline(spec.prompt, generator=seed, **chosen)
            if not preloaded:
                pipeline.unload_lora_weights()
        yield time.perf_counter() - start


@torch.inference_mode()
def by_rows(folder: Path, specs: Sequence[ImageSpec], rank: int) -> Iterator[float]:
    """Yield the seconds of each round of requests, all at once."""
    encoder, model = load_text_encoder(SHAPES, CARD.family, CPU), load_denoiser(SHAPES, CARD.family, CPU)
    vae = load_vae(SHAPES, CARD.family, CPU)
    encoder.enable_loras(folder, rank, COUNT * rank)
    loras = resident(folder, model, rank)
    finished = []
    engine = DenoisingEngine(model, finished.extend, sizer=BatchSizer(model, MAX_ROWS), preview=Preview(()))
    while True:
        start = time.perf_counter()
        finished.clear()
        for spec, encoded in zip(specs, encoder.encode(specs), strict=True):
            assert isinstance(encoded, EncodedPrompt), encoded
            ranks = loras.hold(spec.loras)["unet"]
            engine._batcher.add(new_state(spec, encoded, model.plan(spec), model, None, ranks))
        while len(engine._batcher):
            engine.step()
        for spec in specs:
            loras.release(spec.loras)
        vae.decode([update.latents for _, update in finished if update.latents is not None])
        yield time.perf_counter() - start


def speed_table(folder: Path, rank: int = 8) -> dict[str, float]:
    """Print and return images a second of each way; the ways take turns."""
    specs = asked(write_loras(folder, load_denoiser(SHAPES, CARD.family, CPU), rank))
    ways = {
        "load": by_pipeline(folder, specs, preloaded=False),
        "switch": by_pipeline(folder, specs, preloaded=True),
        "rows": by_rows(folder, specs, rank),
    }
    rounds = [{name: next(way) for name, way in ways.items()} for _ in range(ROUNDS)][1:]
    speed = {name: REQUESTS / statistics.median(each[name] for each in rounds) for name in ways}
    print(f"\n{REQUESTS} requests, {COUNT} LoRAs of rank {rank}, {STEPS} steps, guided: images/s\n")
    for name, value in speed.items():
        print(f"{name:8}{value:8.2f}   rows are {speed['rows'] / value:.2f} times as fast", flush=True)
    return {name: round(value, 3) for name, value in speed.items()}


class LargeLoras:
    """A folder with LoRAs of about 200 MB, and the bank of a model that they are for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = filled(UNet2DConditionModel, torch.float32, **SD_15)
        bank = LoraBank(self._model, LARGE_RANK)
        self._loras = ResidentLoras(folder, {"unet": bank}, self._read, LARGE_RANK)
        self._found = LoraFolder(folder, lambda header: None)
        self._completed: list[Lora] = []
        self.megabytes = 0.0

    def write(self, count: int) -> None:
        """Write files under names that are not looked at yet."""
        for seed in range(count):
            path = self._folder / f".large-{seed}"
            write_lora(path, {"unet": self._model}, rank=LARGE_RANK, targets=ALL, seed=seed, dtype=torch.float16)
            self.megabytes = path.stat().st_size / 1e6

    def complete(self, number: int) -> float:
        """Rename a file to its name; return the seconds until a row can add it, but for the wait for the next scan."""
        os.rename(self._folder / f".large-{number}", self._folder / f"large-{number}.safetensors")
        start = time.perf_counter()
        self._found.scan()
        card = next(card for card in self._found.cards if card.name == f"large-{number}")
        self._completed.append(Lora(name=card.name, weight=1.0, sha256=card.sha256))
        self._load(self._completed[-1])
        return time.perf_counter() - start

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Load LoRAs one after another on another thread, each in the place of the one before."""
        ended = threading.Event()

        def keep_loading() -> None:
            for lora in itertools.takewhile(lambda _: not ended.is_set(), itertools.cycle(self._completed)):
                self._load(lora)

        thread = threading.Thread(target=keep_loading)
        thread.start()
        yield
        ended.set()
        thread.join()

    @torch.inference_mode()
    def _load(self, lora: Lora) -> None:
        self._loras.hold([lora])
        self._loras.release([lora])

    def _read(self, path: Path) -> Mapping[str, Mapping[str, LowRank]]:
        return read_lora(path, ["unet"], self._model.config)


def step_seconds(model: DenoiserModel, count: int) -> list[float]:
    """Return what each of so many forwards of `STEP_ROWS` rows takes."""
    key = model.expected_key(CARD.defaults["width"], CARD.defaults["height"], CARD.max_tokens)
    batch = model.example(key, STEP_ROWS)
    seconds: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        model.predict(batch)
        seconds.append(time.perf_counter() - start)
    return seconds


def load_table(folder: Path) -> dict[str, float]:
    """Print and return how long large LoRAs take, and steps meanwhile; steps with and without take turns."""
    torch.set_num_threads(1)  # of two cores the steps have one
    large, model = LargeLoras(folder), load_denoiser(SHAPES, CARD.family, CPU)
    large.write(LOADS)
    usable = statistics.median([large.complete(number) for number in range(LOADS)])
    quiet, loading = list[float](), list[float]()
    for _ in range(ROUNDS):
        quiet += step_seconds(model, STEPS_A_ROUND)
        with large.loading():
            loading += step_seconds(model, STEPS_A_ROUND)
    p99, p99_loading = (statistics.quantiles(seconds, n=100)[98] * 1000 for seconds in (quiet, loading))
    print(f"\na LoRA of {large.megabytes:.0f} MB can be used {usable:.1f} s after a scan finds it, which comes every")
    print(f"{SCAN_INTERVAL_S:g} s; p99 of steps of {STEP_ROWS} rows {p99:.1f} ms, while such files are loaded one")
    print(f"after another {p99_loading:.1f} ms: {p99_loading / p99:.2f} times", flush=True)
    figures = {"megabytes": large.megabytes, "usable_s": usable, "scan_interval_s": SCAN_INTERVAL_S}
    figures |= {"p99_step_ms": p99, "p99_step_while_loading_ms": p99_loading}
    return {name: round(value, 2) for name, value in figures.items()}


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        steps, speed = step_table(Path(name)), speed_table(Path(name))
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        load = load_table(Path(name))
    finish("adapters", {"threads": THREADS, "step": steps, "images_per_s": speed, "load": load})


if __name__ == "__main__":
    main()
