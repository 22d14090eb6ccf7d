"""What a job looks like on the page."""

from dataclasses import replace
from typing import Any

import pytest

from deployments.schema import (
    GenerationRequest,
    ImageResult,
    Job,
    JobError,
    Progress,
    QueuePlace,
    Timestamps,
    new_job,
    resolve,
)
from gradio_ingress import status
from tests.unit.gradio_ingress.fakes import CARD


def job(prompt: str = "a star", num_images: int = 1, **changes: Any) -> Job:
    specs = resolve(GenerationRequest(prompt=prompt, seed=41, num_images=num_images), CARD)
    return replace(new_job(specs, "someone", 100.0), **changes)


def running(**progress: Any) -> Job:
    known = {"stage": "denoise", "step": 18, "steps": 28, "eta_s": 3.8} | progress
    return job(status="running", progress=Progress(**known))


def result(of: Job, index: int = 0) -> ImageResult:
    return ImageResult(
        index=index,
        url=f"/v1/files/{index}.png",
        name=f"{index}.png",
        seed=41 + index,
        spec=of.specs[index],
        model_digest="0",
        encode_s=0,
        denoise_s=0,
        decode_s=0,
        batch_rows=2,
        attempts=1,
    )


def test_a_waiting_job_shows_its_place_and_when_it_starts() -> None:
    shown = status.status(job(queue=QueuePlace(position=3, size=7, eta_s=12.2)))
    assert "In line: 3rd of 7" in shown
    assert "starts in about 12 s" in shown
    assert "progressbar" not in shown


def test_a_time_that_is_unsure_is_shown_as_a_range() -> None:
    shown = status.status(job(queue=QueuePlace(position=3, size=7, eta_s=12.2, eta_most_s=31)))
    assert "starts in 12 s to 31 s" in shown
    assert "12 s to 31 s left" in status.status(running(eta_s=12.2, eta_most_s=31))
    assert "about 2 s left" in status.status(running(eta_s=1.8, eta_most_s=2.2))


def test_a_running_job_shows_steps_time_and_a_progress_bar() -> None:
    shown = status.status(running())
    assert "Denoising" in shown
    assert "18/28 · about 4 s left" in shown
    assert 'role="progressbar"' in shown
    assert 'aria-valuemax="28" aria-valuenow="18"' in shown


@pytest.mark.parametrize(("stage", "words"), [("encode", "Reading the prompt"), ("decode", "Decoding")])
def test_the_stages_have_plain_words(stage: str, words: str) -> None:
    assert f">{words}<" in status.status(running(stage=stage))


def test_the_announced_words_do_not_change_with_each_step() -> None:
    def announced(shown: str) -> str:
        return shown.partition('aria-live="polite">')[2].partition("<")[0]

    assert announced(status.status(running(step=1))) == announced(status.status(running(step=2))) == "Denoising"


def test_a_finished_job_shows_how_long_it_took_and_its_seeds() -> None:
    ended = Timestamps(created=100.0, started=101.0, ended=103.2)
    shown = status.status(job(num_images=2, status="succeeded", timestamps=ended))
    assert "in 3.2 s · seeds 41 to 42" in shown


def test_a_failed_job_says_why() -> None:
    shown = status.status(job(status="failed", error=JobError(code="non_finite", message="The picture was <NaN>.")))
    assert "The picture was &lt;NaN&gt;." in shown


def test_a_cancelled_job_says_so() -> None:
    assert "Cancelled" in status.status(job(status="cancelled"))


def test_warnings_stand_below_the_status() -> None:
    assert "did not read “&lt;b&gt;”" in status.status(job(warnings=("The encoder did not read “<b>”.",)))


def test_every_picture_has_a_tile_before_it_is_drawn() -> None:
    shown = status.gallery(job(num_images=3))
    assert shown.count("<figure") == 3
    assert shown.count('data-state="waiting"') == 3


def test_preview_and_picture_take_the_same_tile() -> None:
    drawn = job(
        num_images=2,
        status="running",
        progress=Progress(stage="denoise", step=9, steps=16, eta_s=1, previews={1: "data:image/webp;base64,AA"}),
    )
    drawn = replace(drawn, images=(result(drawn),))
    first, second = status.gallery(drawn).split("</figure>")[:2]
    assert 'src="/v1/files/0.png" alt="a star"' in first
    assert 'download="darkroom-41.png"' in first
    assert 'src="data:image/webp;base64,AA" alt="Preview of: a star"' in second


def test_a_prompt_cannot_become_markup() -> None:
    hostile = job(prompt='"><script>alert(1)</script>')
    hostile = replace(hostile, images=(result(hostile),))
    assert "<script" not in status.gallery(hostile)
    assert 'alt=""' not in status.gallery(hostile)
    assert "<script" not in status.examples([{"prompt": "<script>"}])
    assert "<script" not in status.notice("<script>")


@pytest.mark.parametrize(("count", "words"), [(0.2, "1 s"), (12.2, "12 s"), (89, "89 s"), (150, "2 min")])
def test_times_are_said_as_people_say_them(count: float, words: str) -> None:
    assert status.seconds(count) == words


@pytest.mark.parametrize(
    ("number", "words"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd")]
)
def test_places_are_ordinals(number: int, words: str) -> None:
    assert status.ordinal(number) == words
