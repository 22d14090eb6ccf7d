"""What the queue's core and the forecast cost a job, without a database, as the line grows."""

import random
import time
from collections import deque
from dataclasses import replace

from benchmarks.harness import finish
from deployments.dispatcher.deployment import FORECAST_INTERVAL_S, FORECAST_SHARE
from deployments.dispatcher.forecast import rows_in_flight
from deployments.dispatcher.forecaster import Forecaster
from deployments.dispatcher.job_queue import JobQueue, Limits
from deployments.jobs import ImageResult, Job, new_job
from deployments.stages import DENOISER
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


def job_us(line: int, jobs: int) -> float:
    """Microseconds for one job, from submission to its end, with `line` jobs waiting and every denoiser busy.

    Forecasts are made as often as the Dispatcher makes them.
    """
    queue, forecaster = _busy_queue(line, jobs), a_forecaster()
    rng = random.Random(line)
    new = [_new_job(rng.randrange(OWNERS)) for _ in range(jobs)]
    running = deque(lease for lease, _, _ in queue.running)
    start = time.perf_counter()
    due = start + FORECAST_INTERVAL_S
    for job in new:
        queue.check_room(job.owner, 1)
        queue.submit(job)
        lease = running.popleft()
        for step in range(UPDATES):
            queue.progress(lease, StepUpdate(step=4 * step + 1, steps=20, batch_rows=16, batch_images=8))
        queue.finish(lease, _result(lease.index), 2.0)
        granted = queue.grant(SPEC.model, 1.0)
        assert granted is not None
        running.append(granted[0])
        if (now := time.perf_counter()) > due:
            took_s = _forecast_s(forecaster, queue, job.id)
            due = now + took_s + max(FORECAST_INTERVAL_S, took_s / FORECAST_SHARE)
    return (time.perf_counter() - start) / jobs * 1e6


def forecast_ms(line: int) -> float:
    """Milliseconds of one forecast, the last job in line being asked for."""
    queue = _busy_queue(line, 1)
    job = queue.submit(_new_job(0))
    return _forecast_s(a_forecaster(), queue, job.id) * 1e3


def a_forecaster() -> Forecaster:
    """One that knows how many denoisers there are."""
    forecaster = Forecaster(MAX_ROWS)
    forecaster.observe_replicas({DENOISER.key: DENOISERS}, [], 0.0)
    return forecaster


def _busy_queue(line: int, room: int) -> JobQueue:
    """A queue with so many jobs in line, whose denoisers have all that they are given."""
    queue = JobQueue(Limits(line + room + DENOISERS * MAX_ROWS))
    for number in range(line + DENOISERS * MAX_ROWS):
        queue.submit(_new_job(number % OWNERS))
    while queue.rows(SPEC.model) < rows_in_flight(MAX_ROWS, DENOISERS):
        queue.grant(SPEC.model, 0.0)
    return queue


def _forecast_s(forecaster: Forecaster, queue: JobQueue, asked: str) -> float:
    start = time.perf_counter()
    wanted = {asked: queue.queued_images(asked)}
    line, cost = queue.queued(SPEC.model), queue.waiting_cost(SPEC.model)
    queue.estimate(forecaster.forecast(queue.running, line, cost, wanted, start))
    return time.perf_counter() - start


def _new_job(owner: int) -> Job:
    return new_job([replace(SPEC, num_inference_steps=4 + owner % 40)], f"owner {owner}", 0.0, 3600.0)


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
    print(f"{'jobs in line':>14}{'µs a job':>12}{'a forecast, ms':>16}")
    figures = {}
    for line in LINES:
        row = {"job_us": round(job_us(line, jobs), 1), "forecast_ms": round(forecast_ms(line), 1)}
        print(f"{line:14}{row['job_us']:12.1f}{row['forecast_ms']:16.1f}", flush=True)
        figures[line] = row
    finish("queue", {"jobs": JOBS, "lines": figures})


if __name__ == "__main__":
    main()
