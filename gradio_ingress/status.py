"""A Job as HTML: where it stands, and its pictures. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from deployments.schema import ImageResult, Job, Progress
from models.spec import ImageSpec

STARTING = "The service is still starting…"
READY = "Ready."
STAGES = {"encode": "Reading the prompt", "denoise": "Denoising", "decode": "Decoding"}


def masthead() -> str:
    """Return the top of the page."""
    return '<header><h1>Darkroom</h1><a href="/v1/docs">HTTP API</a></header>'


def note(words: str, state: str = "idle") -> str:
    """Return a status line that is about no job. `state` is "idle", "starting" or "problem"."""
    return _status(state, words)


def status(job: Job) -> str:
    """Return where a job stands.

    Only the headline is announced to screen readers, as it changes with the state and not with each step.
    """
    headline, detail = _words(job)
    return _status(job.status, headline, detail, _bar(job.progress) + _warnings(job.warnings))


def gallery(job: Job) -> str:
    """Return a tile a picture: empty while it waits, then its previews, then the picture, always in the same place."""
    done = {image.index: image for image in job.images}
    previews = job.progress.previews if job.progress else {}
    tiles = [_tile(job, spec, done.get(i), previews.get(i)) for i, spec in enumerate(job.specs)]
    return f'<div class="tiles" data-count="{len(tiles)}">{"".join(tiles)}</div>'


def empty_gallery() -> str:
    """Return what stands where pictures will be."""
    return '<div class="tiles" data-count="1"><div class="nothing">Your picture appears here.</div></div>'


def examples(found: Sequence[Mapping[str, Any]]) -> str:
    """Return a button an example; its `data-index` is the example's place."""
    buttons = [
        f'<button type="button" class="example" data-index="{i}">{escape(example["prompt"])}</button>'
        for i, example in enumerate(found)
    ]
    return f'<div class="examples" role="group" aria-label="Examples">{"".join(buttons)}</div>' if buttons else ""


def notice(words: str) -> str:
    """Return a plain word on what the model can draw."""
    return f"<p>{escape(words)}</p>" if words else ""


def seconds(count: float) -> str:
    """Return a time to wait as people say it."""
    if count < 90:
        return f"{max(1, round(count))} s"
    return f"{round(count / 60)} min"


def about(expected_s: float, most_s: float | None) -> str:
    """Return an estimate in words: a range where it is unsure."""
    few, many = seconds(expected_s), seconds(most_s or expected_s)
    return f"about {few}" if few == many else f"{few} to {many}"


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th …"""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _status(state: str, headline: str, detail: str = "", below: str = "") -> str:
    return (
        f'<div class="status" data-state="{state}"><p class="line">'
        f'<span role="status" aria-live="polite">{escape(headline)}</span>'
        f'<span class="detail">{escape(detail)}</span></p>{below}</div>'
    )


def _words(job: Job) -> tuple[str, str]:
    """What is announced, and what is only shown beside it."""
    match job.status:
        case "queued" if job.queue:
            place = f"In line: {ordinal(job.queue.position)} of {job.queue.size}"
            return place, f"starts in {about(job.queue.eta_s, job.queue.eta_most_s)}"
        case "queued":
            return "In line", ""
        case "running":
            return _running(job.progress)
        case "succeeded":
            return "Done", f"in {_took(job)} · {_seeds(job.specs)}"
        case "failed" | "expired":
            return f"This did not work: {job.error.message if job.error else 'no reason is known.'}", ""
        case "cancelled":
            return "Cancelled", "nothing more is drawn"


def _running(progress: Progress | None) -> tuple[str, str]:
    if progress is None:
        return "Starting", ""
    left = f"{about(progress.eta_s, progress.eta_most_s)} left" if progress.eta_s else ""
    count = f"{progress.step}/{progress.steps}" if progress.stage == "denoise" else ""
    return STAGES[progress.stage], " · ".join(part for part in (count, left) if part)


def _took(job: Job) -> str:
    times = job.timestamps
    return f"{(times.ended or times.created) - times.created:.1f} s"


def _seeds(specs: Sequence[ImageSpec]) -> str:
    first, last = specs[0].seed, specs[-1].seed
    return f"seed {first}" if first == last else f"seeds {first} to {last}"


def _bar(progress: Progress | None) -> str:
    if progress is None:
        return ""
    share = 100 * progress.step / max(1, progress.steps)
    values = f'aria-valuemin="0" aria-valuemax="{progress.steps}" aria-valuenow="{progress.step}"'
    return (
        f'<div class="bar" role="progressbar" aria-label="Denoising steps" {values}>'
        f'<span style="width:{share:.0f}%"></span></div>'
    )


def _warnings(warnings: Sequence[str]) -> str:
    return "".join(f'<p class="warning">{escape(warning)}</p>' for warning in warnings)


def _tile(job: Job, spec: ImageSpec, image: ImageResult | None, preview: str | None) -> str:
    shape = f"--w:{spec.width};--h:{spec.height}"
    alt = escape(spec.prompt, quote=True)
    if image:
        url = escape(image.url, quote=True)
        name = f"darkroom-{spec.seed}.{spec.output_format}"
        return (
            f'<figure class="tile" data-state="done" style="{shape}"><img src="{url}" alt="{alt}">'
            f'<figcaption><span>Seed {spec.seed}</span><a href="{url}" download="{name}">Download</a></figcaption>'
            f"</figure>"
        )
    seed = f"<figcaption><span>Seed {spec.seed}</span></figcaption>"
    if preview:
        url = escape(preview, quote=True)
        drawn = f'<img src="{url}" alt="Preview of: {alt}">'
        return f'<figure class="tile" data-state="preview" style="{shape}">{drawn}{seed}</figure>'
    state = "empty" if job.ended else "waiting"
    return f'<figure class="tile" data-state="{state}" style="{shape}"><div class="blank"></div>{seed}</figure>'
