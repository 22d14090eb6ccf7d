"""What recording a metric costs: the Dispatcher's event loop and the denoising thread do it."""

import logging
import time
from collections.abc import Callable

import ray

from benchmarks.harness import finish
from deployments.metrics import DenoiserMetrics, TextEncoderMetrics
from models.spec import StepUpdate

CALLS = 20_000


def microseconds(record: Callable[[], None]) -> float:
    """Mean of many calls; the first thousand, which register things, are left out."""
    for _ in range(1000):
        record()
    start = time.perf_counter()
    for _ in range(CALLS):
        record()
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> None:
    """Print the table."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    denoiser, encoder = DenoiserMetrics(), TextEncoderMetrics()
    update = StepUpdate(step=1, steps=20, batch_rows=6, forward_rows=8, most_rows=16, step_s=0.02)
    figures = {
        "a histogram": microseconds(lambda: denoiser.seconds.observe(0.05)),
        "a gauge": microseconds(lambda: denoiser.gpu_memory.set(6.0)),
        "a counter with a tag": microseconds(lambda: encoder.prompts(2, 2)),
        "a denoising step": microseconds(lambda: denoiser.step(update)),
    }
    ray.shutdown()
    print(f"recording, mean of {CALLS:,} calls (µs)\n")
    for name, value in figures.items():
        print(f"{name:24}{value:8.1f}")
    finish("metrics", {f"{name.replace(' ', '_')}_us": round(value, 1) for name, value in figures.items()})


if __name__ == "__main__":
    main()
