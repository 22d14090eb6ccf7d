"""The step curve of a checkpoint on this device, and the seconds of encoding and decoding: what `plan` plans from.

`python -m benchmarks.curve --checkpoint FOLDER --out FILE`. Nothing else should run on the device meanwhile.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.harness import finish
from models.checkpoint.card import read_card
from models.checkpoint.loading import choose_device, choose_dtype
from models.checkpoint.location import resolve_checkpoint
from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine
from models.denoiser.model import load_denoiser
from models.denoiser.preview import Preview
from models.denoiser.state import new_state
from models.image_file import encode_image
from models.model_card import ModelCard
from models.parameters import DtypeName
from models.spec import StepUpdate
from models.text_encoder import load_text_encoder
from models.vae import load_vae

REPEATS = 9


class Stages:
    """The three stages of a checkpoint in one process, and the picture that they are measured with."""

    def __init__(self, card: ModelCard, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._card = card
        self.spec = card.spec(model=card.id, prompt="a circle", seed=0, **card.defaults)
        self._encoder = load_text_encoder(folder, card.family, device, dtype)
        self._model = load_denoiser(folder, card.family, device, dtype)
        self._decoder = load_vae(folder, card.family, device, dtype)
        self._latents: Any = None

    def encode_s(self) -> float:
        """Median seconds for prompt and negative prompt of one picture, both new."""
        words = iter(range(10**6))
        return median_s(lambda: self._encoder.encode([replace(self.spec, prompt=f"a circle {next(words)}")]))

    def decode_s(self) -> float:
        """Median seconds from latents to the file of one picture."""
        return median_s(self._decode)

    def step_s(self, rows: int) -> float:
        """Median seconds of an engine's step of so many unguided rows."""
        told: list[tuple[object, StepUpdate]] = []
        engine = DenoisingEngine(
            self._model, told.extend, sizer=BatchSizer(self._model, rows, padded=False), preview=Preview(())
        )
        spec = replace(self.spec, guidance_scale=1.0, num_inference_steps=REPEATS + 2, sampler="ddim")
        [encoded] = self._encoder.encode([spec])
        for _ in range(rows):
            engine._batcher.add(new_state(spec, encoded, self._model.plan(spec), self._model))
        with torch.inference_mode():
            engine.step()  # the first one of its shape allocates
            seconds = median_s(engine.step)
            engine.step()
        self._latents = told[-1][1].latents
        return seconds

    def _decode(self) -> None:
        [pixels] = self._decoder.decode([self._latents])
        encode_image(pixels, self.spec, self._card.digest)


def median_s(call: Callable[[], object]) -> float:
    """Median seconds of some calls."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def rows_up_to(most: int) -> Iterator[int]:
    """Yield 1, 2, 4, … and `most`."""
    yield from (2**k for k in range(most.bit_length()) if 2**k < most)
    yield most


def measure(checkpoint: str, device: torch.device, dtype: str, max_rows: int) -> dict[str, Any]:
    """Return the curve of a checkpoint."""
    card = read_card(checkpoint)
    stages = Stages(card, resolve_checkpoint(checkpoint), device, choose_dtype(dtype))
    step_s: dict[int, float] = {}
    for rows in rows_up_to(max_rows):
        try:
            step_s[rows] = round(stages.step_s(rows), 6)
        except torch.OutOfMemoryError:
            break
        print(f"{rows:4} rows {step_s[rows] * 1000:10.2f} ms", flush=True)
    return {
        "model": card.id,
        "digest": card.digest,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "width": stages.spec.width,
        "height": stages.spec.height,
        "steps": stages.spec.model_calls,
        "rows": stages.spec.rows,
        "step_s": step_s,
        "encode_s": round(stages.encode_s(), 6),
        "decode_s": round(stages.decode_s(), 6),
    }


def main() -> None:
    """Measure; write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", default="models/checkpoints/shapes", help="a diffusers folder, or a hub id")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=get_args(DtypeName))
    parser.add_argument("--threads", type=int, default=1, help="on the CPU, as the stages have them")
    parser.add_argument("--max-rows", type=int, default=16)
    parser.add_argument("--out", type=Path, help="the file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    curve = measure(args.checkpoint, choose_device(args.device), args.dtype, args.max_rows)
    if args.out:
        args.out.write_text(json.dumps(curve, indent=2) + "\n", encoding="utf-8")
    finish("curve", curve)


if __name__ == "__main__":
    main()
