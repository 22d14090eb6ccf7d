"""What the queue's core and the forecast cost a job, without a database, as the line grows."""

import random
import time
from dataclasses import replace

from benchmarks.harness import finish
from deployments.dispatcher.forecast import Forecaster
from deployments.dispatcher.job_queue import JobQueue, Limits
from deployments.schema import ImageResult, new_job
from models.spec import ImageSpec, StepUpdate

DENOISERS = 1000
MAX_ROWS = 16
JOBS = 1_000_000
LINES = (100, 1_000, 10_000, 100_000)
OWNERS = 200
UPDATES = 5  # a picture
SPEC = ImageSpec(
    model="shapes",
    prompt="a circle",
    negative_prompt="",
    width=128,
    height=128,
    num_inference_steps=20,
    guidance_scale=4.0,
    sampler="ddim",
    seed=7,
    output_format="png",
)


def core_us(line: int, jobs: int) -> float:
    """Microseconds of the core for one job, from submission to its end, with `line` jobs waiting all the time."""
    rng = random.Random(line)
    queue = JobQueue(Limits(10 * line + jobs))
    new = [new_job([SPEC], f"owner {rng.randrange(OWNERS)}", 0.0, 3600.0) for _ in range(line + jobs)]
    running = []
    for job in new[:line]:
        queue.submit(job)
    start = time.perf_counter()
    for job in new[line:]:
        queue.check_room(job.owner, 1)
        queue.submit(job)
        while queue.rows < DENOISERS * MAX_ROWS and len(running) < DENOISERS:
            granted = queue.grant(1.0)
            if granted is None:
                break
            running.append(granted[0])
        lease = running.pop(0) if len(running) >= min(DENOISERS, line) else None
        if lease is not None:
            for step in range(UPDATES):
                queue.progress(lease, StepUpdate(step=4 * step + 1, steps=20, batch_rows=16))
            queue.finish(lease, _result(lease.index), 2.0)
    return (time.perf_counter() - start) / jobs * 1e6


def forecast_ms(line: int) -> float:
    """Milliseconds of one forecast of a whole line."""
    queue = JobQueue(Limits(line))
    for number in range(line):
        spec = replace(SPEC, num_inference_steps=4 + number % 40)
        queue.submit(new_job([spec], f"owner {number % OWNERS}", 0.0))
    forecaster = Forecaster(MAX_ROWS)
    start = time.perf_counter()
    forecaster.estimates(queue.running, queue.line(), DENOISERS)
    return (time.perf_counter() - start) * 1e3


def _result(index: int) -> ImageResult:
    return ImageResult(
        index=index,
        url="",
        name="",
        seed=7,
        spec=SPEC,
        model_digest="",
        encode_s=0.0,
        denoise_s=0.0,
        decode_s=0.0,
        batch_rows=16,
        attempts=1,
    )


def main() -> None:
    """Print the table."""
    jobs = JOBS // len(LINES)
    print(f"{DENOISERS} denoisers of {MAX_ROWS} rows, {OWNERS} owners, {jobs} jobs through each line\n")
    print(f"{'jobs in line':>14}{'core, µs a job':>16}{'forecast, ms':>14}")
    figures = {}
    for line in LINES:
        row = {"core_us": round(core_us(line, jobs), 1), "forecast_ms": round(forecast_ms(line), 1)}
        print(f"{line:14}{row['core_us']:16.1f}{row['forecast_ms']:14.1f}", flush=True)
        figures[line] = row
    finish("queue", {"jobs": JOBS, "lines": figures})


if __name__ == "__main__":
    main()
