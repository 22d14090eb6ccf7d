"""What a job shows while its images wait and run: progress, place, times and warnings. Pure: job in, job out."""

from collections.abc import Mapping
from dataclasses import replace

from deployments.dispatcher.forecast import Estimate
from deployments.dispatcher.forecaster import QueueForecast
from deployments.dispatcher.lease import ImageKey
from deployments.jobs import Job, Progress, QueuePlace
from deployments.stages import DENOISER, TEXT_ENCODER, VAE
from models.spec import StepUpdate


def progress_of(job: Job, updates: Mapping[ImageKey, StepUpdate], previews: Mapping[int, str] = {}) -> Progress | None:
    """Return the sum of the steps of a running job's images; its stage is that of the image that is furthest behind.

    `updates` may lack its images and have those of other jobs; `previews` are by index.
    """
    if job.status != "running":
        return None
    done = {image.index for image in job.images}
    left = {index: updates.get((job.id, index)) for index in range(len(job.specs)) if index not in done}
    started = [update for update in left.values() if update]
    steps_of = [update.steps if update else job.specs[index].model_calls for index, update in left.items()]
    finished = sum(job.specs[index].model_calls for index in done)
    decoding = len(started) == len(left) and all(update.step == update.steps for update in started)
    shown = {**(job.progress.previews if job.progress else {}), **previews}
    forecast_s = job.queue.end_eta_s if job.queue else 0.0
    return Progress(
        stage=(VAE if decoding else DENOISER if started else TEXT_ENCODER).phase,
        step=finished + sum(update.step for update in started),
        steps=finished + sum(steps_of),
        eta_s=job.progress.eta_s if job.progress else forecast_s,
        eta_most_s=job.progress.eta_most_s if job.progress else None,
        batch_rows=max((update.batch_rows for update in started), default=0),
        batch_images=max((update.batch_images for update in started), default=0),
        previews={index: preview for index, preview in shown.items() if index not in done},
    )


def place_of(job: Job, expected: Estimate, forecast: QueueForecast, queued_jobs: int) -> QueuePlace | None:
    """Return the place of a queued job, of so many; None if it and its times changed too little to be sent."""
    place = QueuePlace(
        position=forecast.places[job.id],
        size=queued_jobs,
        eta_s=expected.start_s,
        eta_most_s=forecast.upper_bound_s(expected.start_s),
        end_eta_s=expected.end_s,
    )
    return place if job.queue is None or _differs(job.queue, place) else None


def with_end(progress: Progress, end_s: float, forecast: QueueForecast) -> Progress | None:
    """Return progress that ends in `end_s` seconds; None if that changed too little to be sent."""
    if not _moved(progress.eta_s, end_s):
        return None
    return replace(progress, eta_s=end_s, eta_most_s=forecast.upper_bound_s(end_s))


def with_warning(job: Job, warning: str) -> Job:
    """Return a job with one more warning, if there is one and the job does not have it yet."""
    if not warning or warning in job.warnings:
        return job
    return replace(job, warnings=(*job.warnings, warning))


def _differs(old: QueuePlace, new: QueuePlace) -> bool:
    place_differs = (old.position, old.size) != (new.position, new.size)
    return place_differs or _moved(old.eta_s, new.eta_s) or (old.eta_most_s is None) != (new.eta_most_s is None)


def _moved(old_s: float, new_s: float) -> bool:
    """Whether an estimate differs by more than a fifth of a second and a fiftieth."""
    return abs(new_s - old_s) > max(0.2, 0.02 * old_s)
