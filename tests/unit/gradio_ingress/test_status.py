"""What a job looks like on the page."""

from dataclasses import replace
from typing import Any

import pytest

from deployments.dispatcher.job_queue import LOST
from deployments.dispatcher.queue_stats import ModelStats, QueueStats
from deployments.jobs import ImageResult, Job, JobError, Progress, QueuePlace, Timestamps, new_job
from deployments.resolution import resolve
from deployments.schema import GenerationRequest
from gradio_ingress import status
from models.spec import Tokens
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


REPLICAS = {"text_encoder": 1, "denoiser": 2, "vae": 1}
LINE = ModelStats(waiting=5, running=2, eta_s=14.2, replicas=REPLICAS, starting={"denoiser": 1})
OTHER = ModelStats(waiting=8, running=0, eta_s=90, replicas=REPLICAS | {"denoiser": 0}, starting={})
QUEUE = QueueStats(13, 2, 90, REPLICAS, 6.5, {"denoiser": 1}, 3, {"shapes": LINE, "sdxl": OTHER})


def test_a_job_that_nobody_is_awake_to_draw_says_so() -> None:
    asleep = replace(QUEUE, models={"shapes": replace(LINE, replicas=REPLICAS | {"denoiser": 0})})
    waiting = job(queue=QueuePlace(position=1, size=1, eta_s=40))
    assert "Waking a replica" in status.status(waiting, asleep)
    assert "your place is kept" in status.status(waiting, asleep)
    assert "In line: 1st of 1" in status.status(waiting, QUEUE)


def test_a_job_whose_replica_died_says_that_it_is_at_the_front() -> None:
    again = job(queue=QueuePlace(position=1, size=4, eta_s=2), warnings=(LOST,))
    assert "A worker stopped; your job restarted at the front" in status.status(again)


def test_a_picture_that_shares_its_batch_says_with_how_many() -> None:
    assert "with 3 others in one batch" in status.status(running(batch_images=4))
    assert "with 1 other in one batch" in status.status(running(batch_images=2))
    assert "batch" not in status.status(running(batch_images=1))


def test_who_comes_back_is_told_when_it_finished() -> None:
    done = job(status="succeeded", timestamps=Timestamps(created=100.0, started=101.0, ended=103.2))
    assert "Welcome back: finished 2 min ago" in status.status(done, back=223.2)
    assert "in 3.2 s" in status.status(done, back=102.0)  # who came back before it had ended


def test_the_status_carries_the_jobs_link_and_a_note_the_field_at_fault() -> None:
    waiting = job()
    assert f'data-link="{waiting.id}.{waiting.link}"' in status.status(waiting)
    assert 'data-field="seed"' in status.note("Seed: no.", "problem", "seed")


def test_why_it_waits_names_the_line_the_replicas_and_ones_own_share() -> None:
    shown = status.why(job(num_images=3), [job(num_images=3)], QUEUE)
    for words in ("5 pictures", "2 pictures", "2 ready, 1 starting", "3 pictures of yours; 3 people share the line"):
        assert words in shown
    assert "Waiting for sdxl</dt><dd>8 pictures" in shown


def test_ones_own_jobs_are_listed_with_what_can_be_done() -> None:
    waiting, done = job(), job(status="succeeded", timestamps=Timestamps(created=100.0, ended=103.2))
    done = replace(done, images=(result(done),))
    shown = status.my_jobs([waiting, done], 12, done.id, 103.2)
    first, second = shown.split("</li>")[:2]
    assert f'data-act="cancel" data-job="{waiting.id}"' in first
    assert "In line" in first
    assert 'data-act="cancel"' not in second
    assert 'aria-current="true"' in second
    assert f'src="/v1/files/0.png?link={done.link}"' in second
    assert "Done · just now" in second


def test_a_job_of_several_images_says_how_many() -> None:
    several = job(num_images=3, status="succeeded", timestamps=Timestamps(created=100.0, ended=103.2))
    assert "Done · 3 pictures · just now" in status.my_jobs([several], 12, None, 103.2)


def test_a_button_lists_more_jobs_where_there_are_more() -> None:
    jobs = [job(prompt=f"star {k}") for k in range(3)]
    shown = status.my_jobs(jobs, 2, jobs[0].id, 103.2)
    assert shown.count("<li") == 2
    assert f'data-act="more" data-job="{jobs[0].id}" data-listed="2"' in shown
    assert 'data-act="more"' not in status.my_jobs(jobs, 3, None, 103.2)


def test_what_is_cut_is_quoted_for_each_prompt() -> None:
    read, cut = Tokens(count=3, limit=75, cut=""), Tokens(count=82, limit=75, cut=" grain, <8k>")
    assert "3/75 tokens" in status.tokens(read, read)
    assert "82/75 tokens: the model will not read “grain, &lt;8k&gt;”" in status.tokens(cut, read)
    assert "Negative prompt: 82/75 tokens" in status.tokens(read, cut)


def test_chunks_are_counted_where_there_are_several() -> None:
    two, five = Tokens(count=83, limit=225, cut="", chunks=2), Tokens(count=305, limit=225, cut="zebra", chunks=5)
    assert ">83/225 tokens, 2 chunks<" in status.tokens(two, two)
    assert "305/225 tokens, 5 chunks: the model will not read “zebra”" in status.tokens(five, two)


@pytest.mark.parametrize(
    ("warning", "words"),
    [
        (
            "num_inference_steps: pndm needs 12 or more with this model; 4 leave noise.",
            "Inference steps: PNDM needs 12 or more with this model; 4 leave noise.",
        ),
        (
            "negative_prompt has no effect at guidance_scale 1; set guidance_scale above 1.",
            "Negative prompt has no effect at Guidance scale 1; set Guidance scale above 1.",
        ),
        ("prompt: “[pndm|num_images]” is read as plain text.", "Prompt: “[pndm|num_images]” is read as plain text."),
        ("loras[0].weight: too much for ddim.", "LoRA 1, weight: too much for DDIM."),
    ],
)
def test_warnings_have_the_words_of_the_page(warning: str, words: str) -> None:
    assert f">{words}<" in status.status(job(warnings=(warning,)))


def test_no_prompt_becomes_markup() -> None:
    hostile = job(prompt='"><script>alert(1)</script>', status="running")
    shown = [
        status.my_jobs([hostile], 12, None, 0),
        status.examples(["<script>"]),
        status.replaced({"prompt": '"><script>'}),
        status.notice("<script>"),
        status.tokens(Tokens(count=9, limit=3, cut="<script>"), Tokens(count=0, limit=3, cut="")),
        status.note("<script>", "problem", '"><script>'),
    ]
    assert "<script" not in "".join(shown)


@pytest.mark.parametrize(
    ("passed_s", "words"),
    [(0, "just now"), (40, "40 s ago"), (300, "5 min ago"), (7200, "2 h ago"), (400_000, "5 days ago")],
)
def test_what_has_passed_is_said_as_people_say_it(passed_s: float, words: str) -> None:
    assert status.ago(passed_s) == words


@pytest.mark.parametrize(("count", "words"), [(0.2, "1 s"), (12.2, "12 s"), (89, "89 s"), (150, "2 min")])
def test_times_are_said_as_people_say_them(count: float, words: str) -> None:
    assert status.seconds(count) == words


@pytest.mark.parametrize(
    ("number", "words"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd")]
)
def test_places_are_ordinals(number: int, words: str) -> None:
    assert status.ordinal(number) == words
