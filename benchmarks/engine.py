"""What the engine itself costs a step: everything but the model's forward, which here returns at once."""

import statistics
import time

import torch

from benchmarks.harness import finish
from benchmarks.requests import CARD, MAX_ROWS, SHAPES, a_request
from benchmarks.stages import CPU
from models.checkpoint.configs import read_json
from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine
from models.denoiser.model import load_denoiser
from models.denoiser.preview import Preview
from models.denoiser.state import new_state
from models.samplers import plan_for
from models.text_encoder import load_text_encoder

SCHEDULER = read_json(SHAPES, "scheduler/scheduler_config.json")
STEPS = 50
ROUNDS = 7


def step_s(samplers: tuple[str, ...], guidance: float) -> float:
    """Median seconds of a step of `MAX_ROWS` rows whose pictures take `samplers` in turn."""
    model = load_denoiser(SHAPES, CARD.family, CPU)
    encoder = load_text_encoder(SHAPES, CARD.family, CPU)
    latents = torch.randn(
        MAX_ROWS, *model.expected_key(CARD.defaults["width"], CARD.defaults["height"], 1).latent_shape
    )
    model.predict = lambda batch, padded_rows=None: latents  # the forward, skipped
    engine = DenoisingEngine(model, lambda told: None, sizer=BatchSizer(model, MAX_ROWS), preview=Preview(()))
    pictures = MAX_ROWS // (2 if guidance > 1 else 1)
    specs = [a_request(k, STEPS, guidance, samplers[k % len(samplers)]) for k in range(pictures)]
    seconds = []
    for _ in range(ROUNDS):
        for spec, encoded in zip(specs, encoder.encode(specs), strict=True):
            plan = plan_for(SCHEDULER, spec.sampler, spec.num_inference_steps)
            engine._batcher.add(new_state(spec, encoded, plan, model))
        for _ in range(STEPS - 1):
            start = time.perf_counter()
            engine.step()
            seconds.append(time.perf_counter() - start)
        engine._batcher.remove(engine._batcher.states())
    return statistics.median(seconds)


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    deterministic = tuple(name for name in CARD.samplers if not any(plan_for(SCHEDULER, name, STEPS).draws_noise))
    print(f"engine without the model, a step of {MAX_ROWS} rows, median (ms)\n")
    print(f"{'samplers in the batch':24}{'unguided':>10}{'guided':>10}")
    figures = {}
    for title, samplers in (
        ("one, deterministic", ("ddim",)),
        (f"{len(deterministic)}, deterministic", deterministic),
        ("one, draws noise", ("euler_ancestral",)),
        (f"all {len(CARD.samplers)}", CARD.samplers),
    ):
        unguided, guided = (round(step_s(samplers, guidance) * 1000, 3) for guidance in (1.0, 4.0))
        print(f"{title:24}{unguided:10.3f}{guided:10.3f}")
        figures[title] = {"unguided_ms": unguided, "guided_ms": guided}
    finish("engine", figures)


if __name__ == "__main__":
    main()
