"""A Job in words: where it stands, why it waits, and the line of one's own jobs. Pure, and HTML."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from deployments.dispatcher.queue_stats import ModelStats, QueueStats
from deployments.jobs import Job, Progress
from deployments.origins import link_to
from deployments.stages import DENOISER, STAGES
from gradio_ingress.controls import in_page_words, warning_in_page_words
from models.spec import ImageSpec, Tokens

STARTING = "The service is still starting…"
READY = "Ready."
UNANSWERED = "The service has not answered yet…"
DISCONNECTED = (
    "The connection to the service is lost. What you did last may not have been received. "
    "This page reconnects by itself and keeps what you typed."
)
REFUSED = (
    "The service did not accept what you did last: nothing was queued. It may be stopping or busy. "
    "Try again in a moment; if that does not help, load this page again. It keeps what you typed."
)
ACTIVITIES = {stage.phase: stage.activity for stage in STAGES}
LABELS = {stage.key: stage.label for stage in STAGES}
STATES = {
    "queued": "In line",
    "running": "Drawing",
    "succeeded": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "expired": "Expired",
}
LOST = "A worker stopped"  # how the Dispatcher's warning of it begins


def masthead() -> str:
    """Return the top of the page."""
    return '<header><h1>Darkroom</h1><a href="/v1/docs">HTTP API</a></header>'


def note(words: str, state: str = "idle", field: str | None = None) -> str:
    """Return a status line that is about no job. `state` is "idle", "starting" or "problem"; `field` is at fault."""
    return _status(state, words, marks=f' data-field="{escape(field, quote=True)}"' if field else "")


def not_served(model: str | None) -> str:
    """Return the sentence on a model that is chosen and not served."""
    return f"Model “{model}” is not served here."


def left_out(reasons: Iterable[str]) -> str:
    """Return the sentence on values that are not taken over, and why."""
    return f"Left out: {' '.join(reasons)}"


def status(job: Job, queue: QueueStats | None = None, *, back: float | None = None) -> str:
    """Return where a job stands; `queue` tells whether anyone is awake to draw it. `back`: the time now, for somebody
    who comes back to a job that ended meanwhile.

    Only the headline is announced to screen readers, as it changes with the state and not with each step.
    """
    headline, detail = _words(job, queue)
    ended = job.timestamps.ended
    if back is not None and job.status == "succeeded" and ended is not None and ended < back:
        headline, detail = f"Welcome back: finished {ago(back - ended)}", _seeds(job.specs)
    link = f' data-link="{job.id}.{job.link}"'
    return _status(job.status, headline, detail, _bar(job.progress) + _warnings(job.warnings), link)


def why(job: Job, own: Iterable[Job], whole: QueueStats) -> str:
    """Return what a waiting job waits for: the whole line, who draws, and one's own share."""
    mine = sum(len(each.specs) - len(each.images) for each in own if not each.ended)
    rows = [
        ("Model", job.model),
        *(_line(whole.models[job.model]) if job.model in whole.models else ()),
        *((f"Waiting for {name}", _pictures(line.waiting)) for name, line in whole.models.items() if name != job.model),
        ("Your share", f"{_pictures(mine)} of yours; {_people(whole.owners)}"),
    ]
    rule = "All who wait get an equal share of the work; your own jobs go first come, first served."
    return f"{terms(rows)}<p>{rule}</p>"


def terms(rows: Iterable[tuple[str, str]]) -> str:
    """Return rows of a name and what is said of it."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(said)}</dd>' for name, said in rows)}</dl>"


def replaced(values: Mapping[str, Any], words: str = "Your prompt was replaced.") -> str:
    """Return a note, with a button that brings back the values of the form that were replaced."""
    undo = f'<button type="button" data-act="undo" data-form="{escape(json.dumps(values), quote=True)}">Undo</button>'
    return _status("idle", words, below=f'<p class="below">{undo}</p>')


def my_jobs(jobs: Sequence[Job], listed: int, selected: str | None, now: float) -> str:
    """Return `listed` of one's own jobs, newest first: a thumb, its state, what can be done with it.

    If there are more, a button lists them. `selected` is the id of the job that the page shows.
    """
    if not jobs:
        return '<p class="none">What you generate is listed here.</p>'
    items = "".join(_item(job, listed, job.id == selected, now) for job in jobs[:listed])
    more = (
        f'<button type="button" data-act="more" data-job="{selected or ""}" data-listed="{listed}">Show more</button>'
    )
    return f'<ol class="jobs">{items}</ol>' + (f'<p class="below">{more}</p>' if len(jobs) > listed else "")


def examples(prompts: Iterable[str]) -> str:
    """Return a button for each example; its `data-index` is the example's place."""
    buttons = [
        f'<button type="button" class="chip" data-act="example" data-index="{i}">{escape(prompt)}</button>'
        for i, prompt in enumerate(prompts)
    ]
    return f'<div class="chips" role="group" aria-label="Examples">{"".join(buttons)}</div>' if buttons else ""


def aspects(names: Iterable[str]) -> str:
    """Return a button a picture's shape, and one that swaps width and height; nothing where there is no choice."""
    buttons = "".join(
        f'<button type="button" class="chip" data-act="aspect" data-index="{name}">{name}</button>' for name in names
    )
    swap = '<button type="button" class="chip" data-act="swap" aria-label="Swap width and height">⇄</button>'
    return f'<div class="chips" role="group" aria-label="Shape">{buttons}{swap}</div>' if buttons else ""


def tokens(prompt: Tokens, negative_prompt: Tokens) -> str:
    """Return how much of the prompts is read, and quote what is not."""
    said = _counted(prompt)
    parts = [
        f"{name}{_counted(tokens)}: the model will not read “{tokens.cut.strip()}”"
        for name, tokens in (("", prompt), ("Negative prompt: ", negative_prompt))
        if tokens.cut
    ]
    return f'<p class="tokens" data-cut="{bool(parts)}">{escape(" · ".join(parts) or said)}</p>'


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


def ago(passed_s: float) -> str:
    """Return how long ago something was, as people say it."""
    if passed_s < 5:
        return "just now"
    if passed_s < 5400:
        return f"{seconds(passed_s)} ago"
    return f"{round(passed_s / 3600)} h ago" if passed_s < 129_600 else f"{round(passed_s / 86400)} days ago"


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th …"""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _status(state: str, headline: str, detail: str = "", below: str = "", marks: str = "") -> str:
    return (
        f'<div class="status" data-state="{state}"{marks}><p class="line">'
        f'<span role="status" aria-live="polite">{escape(headline)}</span>'
        f'<span class="detail">{escape(detail)}</span></p>{below}</div>'
    )


def _words(job: Job, queue: QueueStats | None) -> tuple[str, str]:
    """What is announced, and what is only shown beside it."""
    match job.status:
        case "queued":
            return _waiting(job, queue)
        case "running":
            return _running(job.progress)
        case "succeeded":
            return "Done", f"in {_took(job)} · {_seeds(job.specs)}"
        case "failed" | "expired":
            reason = in_page_words(job.error.message, job.error.param) if job.error else "no reason is known."
            return f"This did not work: {reason}", ""
        case "cancelled":
            return "Cancelled", "nothing more is drawn"


def _waiting(job: Job, queue: QueueStats | None) -> tuple[str, str]:
    place = job.queue
    starts = f"starts in {about(place.eta_s, place.eta_most_s)}" if place else ""
    line = queue.models.get(job.model) if queue else None
    if line is not None and not all(line.replicas.values()):
        return "Waking a replica", "your place is kept"
    if any(warning.startswith(LOST) for warning in job.warnings):
        return "A worker stopped; your job restarted at the front", starts
    return (f"In line: {ordinal(place.position)} of {place.size}", starts) if place else ("In line", "")


def _running(progress: Progress | None) -> tuple[str, str]:
    if progress is None:
        return "Starting", ""
    others = progress.batch_images - 1
    company = f"with {others} other{'s' if others > 1 else ''} in one batch" if others > 0 else ""
    left = f"{about(progress.eta_s, progress.eta_most_s)} left" if progress.eta_s else ""
    count = f"{progress.step}/{progress.steps}" if progress.stage == DENOISER.phase else ""
    return ACTIVITIES[progress.stage], " · ".join(part for part in (count, left, company) if part)


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
    return "".join(f'<p class="warning">{escape(warning_in_page_words(warning))}</p>' for warning in warnings)


def _counted(tokens: Tokens) -> str:
    chunks = f", {tokens.chunks} chunks" if tokens.chunks > 1 else ""
    return f"{tokens.count}/{tokens.limit} tokens{chunks}"


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"


def _people(owners: int) -> str:
    return "nobody else waits" if owners < 2 else f"{owners} people share the line"


def _line(line: ModelStats) -> list[tuple[str, str]]:
    return [
        ("Waiting", _pictures(line.waiting)),
        ("Being drawn", _pictures(line.running)),
        ("Until all is done", about(line.eta_s, None) if line.waiting + line.running else "nothing to do"),
        *((f"{LABELS[key]} replicas", _replicas(line, key)) for key in line.replicas),
    ]


def _replicas(line: ModelStats, stage: str) -> str:
    starting = line.starting.get(stage, 0)
    return f"{line.replicas[stage]} ready" + (f", {starting} starting" if starting else "")


def _item(job: Job, listed: int, selected: bool, now: float) -> str:
    times, prompt = job.timestamps, escape(job.specs[0].prompt)
    named = f'aria-label="Cancel: {escape(job.specs[0].prompt, quote=True)}"'
    which = f'data-job="{job.id}" data-listed="{listed}"'
    thumb = "<i></i>"
    if job.images:
        thumb = f'<img src="{escape(link_to(job, job.images[0]), quote=True)}" alt="" loading="lazy">'
    about = [STATES[job.status], ago(now - (times.ended or times.created))]
    if len(job.specs) > 1:
        about.insert(1, _pictures(len(job.specs)))
    current = ' aria-current="true"' if selected else ""
    cancel = "" if job.ended else f'<button type="button" data-act="cancel" {which} {named}>Cancel</button>'
    return (
        f'<li{current}><button type="button" class="recall" data-act="show" {which}>{thumb}'
        f'<span class="what">{prompt}</span><span class="when">{" · ".join(about)}</span></button>'
        f"{cancel}</li>"
    )
