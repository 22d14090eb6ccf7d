"""What one GPU does, without Ray: Stable Diffusion 1.5 and XL in shape, random weights, bfloat16, 20 guided steps.

For each: milliseconds of a forward by rows and its share of the device's measured matrix peak; pictures a second of one
and of eight clients, Darkroom's engine and VAE against the diffusers pipeline, both plain and compiled. `--tiny` is a
dry run in small that a CPU can do.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers import StableDiffusionPipeline as SDPipeline
from diffusers import StableDiffusionXLPipeline as SDXLPipeline
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import finish
from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine
from models.denoiser.model import DenoiserModel
from models.denoiser.preview import Preview
from models.denoiser.state import DenoiseState, new_state
from models.families.registry import FAMILIES
from models.samplers import plan_for
from models.spec import ImageSpec, StepUpdate
from models.text_encoder import EncodedPrompt
from models.vae import Vae

STEPS = 20
GUIDANCE = 7.5
TOKENS = 75  # without start and end
MAX_ROWS = 16
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
}
SD_15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
IN_SMALL = {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 32}
TINY = {
    "sd": SD_15 | IN_SMALL | {"block_out_channels": (8, 16, 16, 16), "attention_head_dim": 2},
    "sdxl": SDXL
    | IN_SMALL
    | {
        "block_out_channels": (8, 16, 16),
        "attention_head_dim": 2,
        "transformer_layers_per_block": 1,
        "projection_class_embeddings_input_dim": 32 + 6 * 256,
    },
}


@dataclass(frozen=True)
class Model:
    """Random weights in the shape of a family."""

    family: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    device: torch.device

    @property
    def side(self) -> int:
        """Of a picture, pixels."""
        return self.unet.config.sample_size * 8

    def text(self, seed: int) -> dict[str, torch.Tensor]:
        """A text's conditioning, at random."""
        generator = torch.Generator().manual_seed(seed)
        sides = self.unet.config.sample_size, self.unet.config.sample_size
        shapes = FAMILIES[self.family].expected_shapes(
            self.unet.config, TOKENS, (self.unet.config.out_channels, *sides)
        )
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items() if name != "time_ids"}


def new_model(family: str, device: torch.device, *, tiny: bool) -> Model:
    """Build a model with random weights."""
    torch.manual_seed(0)
    unet = TINY[family] if tiny else {"sd": SD_15, "sdxl": SDXL}[family]
    vae = VAE | ({"block_out_channels": (32,) * 4, "layers_per_block": 1} if tiny else {})
    with device:
        parts = UNet2DConditionModel(**unet), AutoencoderKL(**vae)
    return Model(family, *(part.to(torch.bfloat16).eval() for part in parts), device)  # pyright: ignore[reportCallIssue]


def by_pipeline(model: Model, clients: int, *, compiled: bool) -> Callable[[], object]:
    """The diffusers pipeline; one call draws a picture of each client."""
    unet = torch.compile(model.unet) if compiled else model.unet
    parts: dict[str, Any] = {"vae": model.vae, "unet": unet, "scheduler": DDIMScheduler(**SCHEDULER)}
    pipeline: DiffusionPipeline
    if model.family == "sd":
        nothing = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
        pipeline = SDPipeline(**parts, **nothing, requires_safety_checker=False)
    else:
        nothing = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
        pipeline = SDXLPipeline(**parts, **nothing, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    inputs: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "np"}
    for sign in ("", "negative_"):
        texts = [model.text(2 * k + bool(sign)) for k in range(clients)]
        inputs[f"{sign}prompt_embeds"] = stacked([text["encoder_hidden_states"] for text in texts], model.device)
        if model.family == "sdxl":
            inputs[f"{sign}pooled_prompt_embeds"] = stacked([text["text_embeds"] for text in texts], model.device)
    return partial(pipeline, **inputs, height=model.side, width=model.side)


def stacked(tensors: Sequence[Any], device: torch.device) -> torch.Tensor:
    """Rows of one tensor, bfloat16."""
    return torch.stack(list(tensors)).to(device, torch.bfloat16)


class Engine:
    """Darkroom's engine and VAE, without the cluster."""

    def __init__(self, model: Model, *, compiled: bool) -> None:
        self._model = model
        self.denoiser = DenoiserModel(
            model.unet, FAMILIES[model.family], SCHEDULER | {"_class_name": "DDIMScheduler"}, 8, model.device
        )
        if compiled:
            self.denoiser.compile()
        self.key = self.denoiser.expected_key(model.side, model.side, TOKENS)
        self.sizer = BatchSizer(self.denoiser, MAX_ROWS, padded=compiled)
        self.sizer.warm_up(self.key)
        self._told: list[tuple[DenoiseState, StepUpdate]] = []
        self._engine = DenoisingEngine(self.denoiser, self._told.extend, sizer=self.sizer, preview=Preview(()))
        self._decoder = Vae(model.vae, FAMILIES[model.family], 8, model.device)

    @torch.inference_mode()
    def draw(self, clients: int) -> None:
        """Draw a picture of each client, decoding those that are finished together."""
        for k in range(clients):
            self._engine._batcher.add(self._state(k))
        while len(self._engine._batcher):
            self._engine.step()
            finished = [update.latents for _, update in self._told if update.latents is not None]
            self._told.clear()
            if finished:
                self._decoder.decode(finished)

    def _state(self, k: int) -> DenoiseState:
        side = self._model.side
        spec = ImageSpec(
            model="random",
            prompt="",
            negative_prompt="",
            width=side,
            height=side,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            sampler="ddim",
            seed=k,
            output_format="png",
        )
        encoded = EncodedPrompt(rows=(self._model.text(2 * k + 1), self._model.text(2 * k)))
        return new_state(spec, encoded, plan_for(self.denoiser.scheduler_config, "ddim", STEPS), self.denoiser)


def seconds(draw: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of a call that ends with its results on the CPU, after one to warm up."""
    draw()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        draw()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[repeats // 2]


def matrix_peak(device: torch.device, side: int) -> float:
    """Measured operations a second of a bfloat16 product of square matrices."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)

    def products() -> None:
        for _ in range(20):
            product = a @ a
        product[0, 0].item()

    return 20 * 2 * side**3 / seconds(products)


def operations(engine: Engine, rows: int) -> int:
    """Operations of one forward."""
    with FlopCounterMode(display=False) as counter:
        engine.denoiser.predict(engine.denoiser.example(engine.key, rows))
    return counter.get_total_flops()


def measure(family: str, device: torch.device, peak: float, *, tiny: bool) -> dict[str, Any]:
    """Print a family's tables; return the figures."""
    model = new_model(family, device, tiny=tiny)
    figures: dict[str, Any] = {}
    for compiled in (False, True):
        engine = Engine(model, compiled=compiled)
        name = "compiled" if compiled else "plain"
        if not compiled:
            row = operations(engine, 1)
        curve = {rows: engine.sizer.curve.step_s(rows, engine.key.cells) for rows in (1, 2, 4, 8, 16)}
        print(f"\n{family}, {model.side} × {model.side}, {name}")
        for rows, taken in curve.items():
            print(f"  {rows:3} rows {taken * 1000:9.2f} ms  {rows * row / taken / peak:6.1%} of the matrix peak")
        for clients in (1, 8):
            ours = clients / seconds(partial(engine.draw, clients))
            theirs = clients / seconds(by_pipeline(model, clients, compiled=compiled))
            print(f"  {clients} clients: {ours:.2f} pictures/s; the diffusers pipeline, {name}: {theirs:.2f}")
            figures[f"{name}_{clients}"] = {"engine": round(ours, 3), "pipeline": round(theirs, 3)}
        figures[f"{name}_step_ms"] = {rows: round(taken * 1000, 3) for rows, taken in curve.items()}
    return figures


def main() -> None:
    """Print the tables of both families."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tiny", action="store_true", help="a dry run in small, on the CPU")
    tiny = parser.parse_args().tiny
    if not tiny and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here; --tiny runs it in small.")
    device = torch.device("cpu" if tiny else "cuda")
    peak = matrix_peak(device, 256 if tiny else 8192)
    print(f"{device}: {peak / 1e12:.1f} TFLOP/s of bfloat16 products")
    finish("gpu", {family: measure(family, device, peak, tiny=tiny) for family in ("sd", "sdxl")})


if __name__ == "__main__":
    main()
