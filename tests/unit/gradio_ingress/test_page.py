"""What the page's handlers do, without a browser: the real Dispatcher over a fake pipeline."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from deployments.access import AccessPolicy
from deployments.config import UiConfig
from deployments.dispatcher.client import DispatcherClient
from deployments.image_store import ImageStore
from deployments.jobs import Job
from deployments.resolution import resolve
from deployments.schema import GenerationRequest
from gradio_ingress import controls
from gradio_ingress import page as page_module
from gradio_ingress.app import build, create_app
from gradio_ingress.page import Page
from gradio_ingress.page_state import LISTED_JOBS
from models.errors import Unavailable
from models.image_file import encode_image
from models.model_card import ModelCard
from models.vae import Decoded
from tests.unit.gradio_ingress.fakes import CARD, Cluster, picture


def a_request(owner: str | None, tab: str = "tab", **query: str) -> Any:
    return SimpleNamespace(state=SimpleNamespace(owner=owner), session_hash=tab, query_params=query)


REQUEST = a_request("browser:ada")


class Down:
    """Calls to a cluster that is not there, `times` times; then to one that is."""

    def __init__(self, times: int = 10**6) -> None:
        self.times = times

    async def call(self, method: str, *args: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise Unavailable("The service is still starting.")
        return [CARD] if method == "models" else []

    async def stream(self, method: str) -> AsyncIterator[Any]:
        raise Unavailable("The service is still starting.")
        yield


@pytest.fixture
async def cluster(tmp_path: Path) -> Cluster:
    return Cluster(ImageStore(tmp_path))


@pytest.fixture
def page(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # what is there was uploaded
    return Page(cluster.client)


def form(page: Page, *, randomize: bool = True, **values: Any) -> dict[Any, Any]:
    """What the browser would send once the page has fitted itself to the model."""
    typed = {name: controls.default(name, CARD) for name in controls.FIELDS} | {"seed": 0} | values
    filled = {page.parts.controls[path]: value for path, value in controls.write(typed).items()}
    return filled | {page.parts.randomize: randomize, page.parts.listed: LISTED_JOBS}


def upload(page: Page, path: Path | str, **values: Any) -> dict[Any, Any]:
    """What the browser sends with a file that is uploaded to read its settings."""
    return form(page, **values) | {page.parts.picture: {"path": str(path)}}


def left(page: Page, **values: Any) -> dict[Any, Any]:
    """What the browser sends when the page opens: the form as it was left in this tab; None where nobody was before."""
    form: dict[Any, Any] = dict.fromkeys(page.parts.form)
    return form | {page.parts.controls[path]: value for path, value in controls.write(values).items()}


async def generated(page: Page, request: Any = REQUEST, **values: Any) -> list[dict[Any, Any]]:
    return [update async for update in page.on_generate(form(page, **values), request)]


async def selected_job(page: Page, updates: AsyncIterator[dict[Any, Any]]) -> Job:
    """The job that a page has begun to show."""
    async for update in updates:
        if page.parts.status in update:
            return next(iter(page._states.values())).selected
    raise AssertionError("nothing is shown")


def undo(message: str) -> gr.EventData:
    """A click on the button of a message."""
    [values] = re.findall('data-form="(.*?)"', message)
    return clicked(act="undo", form=unescape(values))


def clicked(**data: Any) -> gr.EventData:
    return gr.EventData(None, {"listed": "12"} | data)


async def test_a_prompt_ends_in_a_picture_and_the_seed_that_was_used(page: Page, cluster: Cluster) -> None:
    first, *_, last = await generated(page, prompt="a star")
    assert first[page.parts.controls["seed"]] == cluster.pipeline.specs[0].seed
    assert 'src="/v1/files/job_' in last[page.parts.gallery]
    assert "Done" in last[page.parts.status]
    assert last[page.parts.cancel]["visible"] is False
    assert not page._states


async def test_what_has_not_changed_is_not_sent_again(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = []
    async for update in page.on_generate(form(page, prompt="a star"), REQUEST):
        updates.append(update)
        if len(updates) > 2:
            cluster.pipeline.go.set()
    assert ["dl" in update[page.parts.receipt] for update in updates if page.parts.receipt in update] == [False, True]


async def test_what_the_form_says_is_what_is_drawn(page: Page, cluster: Cluster) -> None:
    await generated(
        page, randomize=False, prompt="a star", seed=5, num_images=2, num_inference_steps=4, style="cartoon"
    )
    specs = cluster.pipeline.specs
    assert [spec.seed for spec in specs] == [5, 6]
    assert {spec.prompt for spec in specs} == {"a star, cartoon"}
    assert {spec.num_inference_steps for spec in specs} == {4}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompt": ""}, "Prompt must"),
        ({"prompt": "a star", "num_inference_steps": 500}, "must be 150 or less"),
        ({"prompt": "a star", "num_inference_steps": 120}, "Inference steps must be from 1 to 100"),
        ({"prompt": "a star", "seed": -2, "randomize": False}, "Seed must"),
    ],
)
async def test_bad_input_shows_a_message_and_queues_nothing(
    page: Page, cluster: Cluster, values: dict[str, Any], words: str
) -> None:
    updates = await generated(page, **values)
    assert len(updates) == 1
    assert words in updates[0][page.parts.message]
    assert 'data-field="' in updates[0][page.parts.message]
    assert page.parts.status not in updates[0]
    assert page.parts.gallery not in updates[0]
    assert not cluster.pipeline.specs


async def test_a_full_line_is_said_in_the_clusters_words(tmp_path: Path) -> None:
    cluster = Cluster(ImageStore(tmp_path), max_waiting=4)
    crowded = Page(cluster.client)
    cluster.pipeline.go.clear()
    await cluster.client.submit(GenerationRequest(prompt="a star", num_images=4), "browser:bob")
    updates = await generated(crowded, prompt="a star", num_images=4)
    assert "The queue is full (4). Nothing was queued." in updates[-1][crowded.parts.message]


async def test_more_pictures_than_may_ever_wait_are_said_with_their_field(tmp_path: Path) -> None:
    narrow = Page(Cluster(ImageStore(tmp_path), max_waiting=1).client)
    updates = await generated(narrow, prompt="a star", num_images=4)
    said = updates[-1][narrow.parts.message]
    assert "Images must be at most 1" in said
    assert 'data-field="num_images"' in said


async def test_cancel_ends_the_job_in_the_cluster(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    job = await selected_job(page, updates)
    await page.on_cancel(REQUEST)
    *_, last = [update async for update in updates]
    assert "Cancelled" in last[page.parts.status]
    assert (await cluster.client.job(job.id)).status == "cancelled"


async def test_cancelling_what_has_ended_changes_nothing(page: Page, cluster: Cluster) -> None:
    await generated(page, prompt="a star")
    assert await page.on_cancel(REQUEST) == gr.skip()
    job = (await cluster.client.jobs("browser:ada"))[0]
    *_, last = [update async for update in page.on_mine(REQUEST, clicked(act="cancel", job=job.id))]
    assert "Done" in last[page.parts.status]


async def test_another_job_can_be_cancelled_without_leaving_the_selected_one(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    other = await cluster.client.submit(GenerationRequest(prompt="a moon"), "browser:ada")
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    selected = await selected_job(page, updates)
    assert [u async for u in page.on_mine(REQUEST, clicked(act="cancel", job=other.id))] == [gr.skip()]
    assert (await cluster.client.job(other.id)).status == "cancelled"
    assert page._states[REQUEST.session_hash].selected.id == selected.id
    await updates.aclose()


async def test_the_form_as_it_was_comes_back_after_restored_settings(page: Page, tmp_path: Path) -> None:
    await generated(page, prompt="a star", num_inference_steps=4)
    job = (await page._client.jobs("browser:ada"))[0]
    which = clicked(act="settings", job=f"{job.id}.{job.link}", index="0")
    dropped = tmp_path / "picture.png"
    dropped.write_bytes(picture(resolve(GenerationRequest(prompt="a [red|blue] moon"), CARD)[0]))
    own = {"prompt": "my own", "style": "cartoon", "num_inference_steps": 500, "seed": 5, "num_images": 2}
    was = form(page, **own)
    reused = await page.reuse.on_reuse(was, REQUEST, which)
    read = await page.reuse.on_picture(upload(page, dropped, **own), REQUEST)
    assert "“[red|blue]”: alternating and scheduled words are not supported" in read[page.parts.message]
    for filled in (reused, read):
        undone = await page.on_undo(form(page, prompt="a star"), undo(filled[page.parts.message]))
        assert {control: undone[control]["value"] for control in page.parts.form} == {
            control: "shapes" if control is page.parts.controls["model"] else was[control]
            for control in page.parts.form
        }
        assert undone[page.parts.controls["num_inference_steps"]]["maximum"] == 100


async def test_another_browser_can_neither_cancel_nor_recall_a_job(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    job = await selected_job(page, updates)
    for act in ("cancel", "show"):
        seen = [u async for u in page.on_mine(a_request(None, "another"), clicked(act=act, job=job.id))]
        assert "There is no job" in seen[-1][page.parts.message]
    assert not (await cluster.client.job(job.id)).ended
    await updates.aclose()


async def test_leaving_the_page_does_not_end_the_job(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    job = await selected_job(page, updates)
    await updates.aclose()
    assert not page._states
    cluster.pipeline.go.set()
    *_, last = [state async for state in cluster.client.watch(job.id)]
    assert last.status == "succeeded"


async def test_who_comes_back_sees_the_job_that_is_still_drawn(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    job = await selected_job(page, updates)
    await updates.aclose()
    again = page.on_return(a_request("browser:ada", "another tab"))
    assert (await selected_job(page, again)).id == job.id
    cluster.pipeline.go.set()
    *_, last = [update async for update in again]
    assert 'data-state="done"' in last[page.parts.gallery]


async def test_a_link_shows_a_job_to_anybody_and_lets_nobody_end_it(page: Page, cluster: Cluster) -> None:
    await generated(page, prompt="a star")
    job = (await cluster.client.jobs("browser:ada"))[0]
    guest = a_request("browser:bob", "bob", job=f"{job.id}.{job.link}")
    [opened] = [update async for update in page.on_load(left(page), guest)]
    assert opened[page.parts.controls["prompt"]]["value"] == "a star"
    assert page.parts.randomize not in opened
    *_, last = [update async for update in page.on_return(guest)]
    assert f"{job.images[0].url}?link={job.link}" in last[page.parts.gallery]
    assert "Welcome back: finished just now" in last[page.parts.status]
    assert "a star" not in last[page.parts.mine]
    await page.on_cancel(guest)
    wrong = a_request("browser:bob", "bob", job=f"{job.id}.wrong")
    [opened] = [update async for update in page.on_load(left(page), wrong)]
    assert page.parts.controls["prompt"] not in opened
    *_, last = [update async for update in page.on_return(wrong)]
    assert "There is no job" in last[page.parts.status]


async def test_a_second_job_is_selected_and_the_first_can_be_recalled(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    first = await selected_job(page, updates)
    [_, rest] = await generated(page, prompt="a moon")
    assert rest == gr.skip(), "the handler that renders the page shows it"
    state = page._states["tab"]
    assert state.selected is not None
    assert state.selected.specs[0].prompt == "a moon"
    assert [job.specs[0].prompt for job in state.jobs] == ["a moon", "a star"]
    assert [update async for update in page.on_mine(REQUEST, clicked(act="show", job=first.id))] == [gr.skip()]
    assert state.selected.id == first.id
    cluster.pipeline.go.set()
    *_, last = [update async for update in updates]
    assert last[page.parts.mine].count("Done") == 2


async def test_who_generates_before_the_old_job_is_back_sees_the_new_one(page: Page, cluster: Cluster) -> None:
    await generated(page, prompt="a star")
    old = (await cluster.client.jobs("browser:ada"))[0]
    cluster.pipeline.go.clear()
    back = a_request("browser:ada", job=f"{old.id}.{old.link}")
    updates = page.on_generate(form(page, prompt="a moon"), back)
    new = await selected_job(page, updates)
    assert [update async for update in page.on_return(back)] == [gr.skip()]
    assert page._states["tab"].selected == new
    await page.on_cancel(back)
    *_, last = [update async for update in updates]
    assert "Cancelled" in last[page.parts.status]


async def test_a_refusal_stays_when_another_job_ends_and_goes_with_the_next_that_is_accepted(
    page: Page, cluster: Cluster
) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    await selected_job(page, updates)
    [refused] = await generated(page, prompt="")
    assert "Prompt must" in refused[page.parts.message]
    cluster.pipeline.go.set()
    rest = [update async for update in updates]
    assert "Done" in rest[-1][page.parts.status]
    assert all(page.parts.message not in update for update in rest)
    accepted, *_ = await generated(page, prompt="a moon")
    assert accepted[page.parts.message] == ""


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_a_dropped_picture_restores_its_format(page: Page, tmp_path: Path, output_format: Any) -> None:
    spec = resolve(GenerationRequest(prompt="a moon", output_format=output_format), CARD)[0]
    dropped = tmp_path / "picture"
    dropped.write_bytes(encode_image(Decoded(np.zeros((64, 64, 3), np.uint8), False), spec, "0" * 64))
    filled = await page.reuse.on_picture(upload(page, dropped), REQUEST)
    assert filled[page.parts.controls["output_format"]]["value"] == output_format


async def test_a_seed_of_minus_one_in_a_dropped_picture_is_a_random_one(page: Page, tmp_path: Path) -> None:
    spec = resolve(GenerationRequest(prompt="a moon", seed=9), CARD)[0]
    dropped = tmp_path / "picture.png"
    dropped.write_bytes(picture(spec, text="a moon\nSteps: 6, Seed: -1, Size: 64x64"))
    filled = await page.reuse.on_picture(upload(page, dropped), REQUEST)
    assert filled[page.parts.randomize]["value"] is True


async def test_settings_of_a_model_that_is_not_served_are_restored_with_a_word(
    page: Page, cluster: Cluster, tmp_path: Path
) -> None:
    spec = resolve(GenerationRequest(prompt="a moon", seed=9), CARD)[0]
    dropped = tmp_path / "picture.png"
    dropped.write_bytes(picture(spec, text="a moon\nSteps: 6, Seed: 9, Size: 64x64, Model: another"))
    filled = await page.reuse.on_picture(upload(page, dropped), REQUEST)
    assert "Model “another” is not served here." in filled[page.parts.message]


async def test_a_dropped_picture_of_another_size_leaves_a_form_that_generates(
    page: Page, cluster: Cluster, tmp_path: Path
) -> None:
    spec = resolve(GenerationRequest(prompt="a moon", seed=9), CARD)[0]
    dropped = tmp_path / "picture.png"
    dropped.write_bytes(picture(spec, text="a moon\nSteps: 6, Seed: 9, Size: 512x512"))
    filled = await page.reuse.on_picture(upload(page, dropped), REQUEST)
    assert (
        "Settings restored from the picture. Left out: Width must be 64 for shapes, got 512. "
        "Height must be 64 for shapes, got 512."
    ) in filled[page.parts.message]
    shown = {part: update["value"] for part, update in filled.items() if isinstance(update, dict) and "value" in update}
    updates = [update async for update in page.on_generate(form(page) | shown, REQUEST)]
    assert "Done" in updates[-1][page.parts.status]
    assert (cluster.pipeline.specs[0].width, cluster.pipeline.specs[0].num_inference_steps) == (64, 6)


async def test_settings_of_a_job_whose_model_is_gone_are_restored_as_far_as_another_allows(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    await generated(page, prompt="a star", sampler="euler", num_inference_steps=90)
    job = (await page._client.jobs("browser:ada"))[0]
    bounds = {"width": (128, 128), "height": (128, 128), "num_inference_steps": (1, 50)}
    small = replace(CARD, id="small", defaults=CARD.defaults | {"width": 128, "height": 128}, bounds=bounds)

    async def models() -> list[ModelCard]:
        return [small]

    monkeypatch.setattr(page._client, "models", models)
    reused = await page.reuse.on_reuse(
        form(page), REQUEST, clicked(act="settings", job=f"{job.id}.{job.link}", index="0")
    )
    back = a_request("browser:ada", "back", job=f"{job.id}.{job.link}")
    [opened] = [update async for update in page.on_load(left(page), back)]
    for filled in (reused, opened):
        names = ("width", "num_inference_steps", "sampler")
        assert [filled[page.parts.controls[name]]["value"] for name in names] == [128, 8, "euler"]
        assert "Model “shapes” is not served here. Left out: Width must be 128" in filled[page.parts.message]


async def test_settings_that_name_a_model_by_its_alias_are_restored_for_that_model(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def models() -> list[ModelCard]:
        return [CARD, replace(CARD, id="other", aliases=("another",))]

    monkeypatch.setattr(page._client, "models", models)
    spec = resolve(GenerationRequest(prompt="a moon", seed=9), CARD)[0]
    dropped = tmp_path / "picture.png"
    dropped.write_bytes(picture(spec, text="a moon\nSteps: 6, Seed: 9, Size: 64x64, Model: another"))
    filled = await page.reuse.on_picture(upload(page, dropped), REQUEST)
    assert filled[page.parts.controls["model"]]["value"] == "other"
    assert "not served" not in filled[page.parts.message]


async def test_what_ended_can_be_recalled(page: Page, cluster: Cluster) -> None:
    await generated(page, prompt="a star")
    job = (await cluster.client.jobs("browser:ada"))[0]
    *_, last = [update async for update in page.on_mine(REQUEST, clicked(act="show", job=job.id))]
    assert job.images[0].url in last[page.parts.gallery]


async def example_run(page: Page, index: str = "1", request: Any = REQUEST, **values: Any) -> list[dict[Any, Any]]:
    given = form(page, **values)
    return [update async for update in page.on_example(given, request, clicked(act="example", index=index))]


async def test_an_example_runs_with_its_seed_and_changes_nothing_of_the_form_but_the_prompt(
    page: Page, cluster: Cluster
) -> None:
    first, *_ = await example_run(page, "0", num_images=2, num_inference_steps=4)
    assert first == {
        page.parts.controls["prompt"]: CARD.examples[0]["prompt"],
        page.parts.controls["seed"]: 7,
        page.parts.message: "",
    }
    assert [(spec.seed, spec.num_inference_steps) for spec in cluster.pipeline.specs] == [(7, 4), (8, 4)]
    await generated(page, prompt=CARD.examples[0]["prompt"], seed=7)
    assert cluster.pipeline.specs[-1].seed != 7, "Randomize is as it was"


async def test_a_seed_that_is_fixed_stays_for_an_example(page: Page, cluster: Cluster) -> None:
    await example_run(page, "0", seed=5, randomize=False)
    assert cluster.pipeline.specs[0].seed == 5


async def test_the_style_of_an_example_is_in_its_prompt_and_the_forms_own_comes_with_it(
    page: Page, cluster: Cluster
) -> None:
    first, *_ = await example_run(page)
    assert first[page.parts.controls["prompt"]] == "a green star on a white background, cartoon"
    assert page.parts.controls["style"] not in first
    await generated(page, prompt=first[page.parts.controls["prompt"]])
    await example_run(page, style="flat")
    assert [spec.prompt for spec in cluster.pipeline.specs] == [
        "a green star on a white background, cartoon",
        "a green star on a white background, cartoon",
        "a green star on a white background, cartoon, flat design",
    ]


async def test_a_typed_prompt_comes_back_after_an_example(page: Page) -> None:
    typed = 'my "own" <star>\n& moon'
    first, *_ = await example_run(page, prompt=typed)
    shown = form(page, prompt=first[page.parts.controls["prompt"]])
    assert await page.on_undo(shown, undo(first[page.parts.message])) == {
        page.parts.controls["prompt"]: gr.update(value=typed),
        page.parts.message: "",
    }
    for nothing_lost in ("", "  ", None):
        first, *_ = await example_run(page, prompt=nothing_lost)
        assert first[page.parts.message] == ""


async def test_a_typed_prompt_can_still_be_brought_back_after_another_example(page: Page) -> None:
    for shown in (CARD.examples[0]["prompt"], "a green star on a white background, cartoon"):
        first, *_ = await example_run(page, prompt=shown)
        assert first[page.parts.message] == gr.skip()


async def test_what_was_made_of_an_examples_prompt_can_be_brought_back_after_undo(page: Page) -> None:
    edited = form(page, prompt="an example, edited")
    undone = await page.on_undo(edited, clicked(act="undo", form='{"prompt": "my own"}'))
    assert undone[page.parts.controls["prompt"]]["value"] == "my own"
    again = await page.on_undo(form(page, prompt="my own"), undo(undone[page.parts.message]))
    assert again[page.parts.controls["prompt"]]["value"] == "an example, edited"


async def test_an_example_that_is_refused_leaves_the_prompt(page: Page) -> None:
    [refused] = await example_run(page, prompt="my own", num_inference_steps=120)
    assert list(refused) == [page.parts.message]


async def test_the_form_comes_back_as_it_was_left(page: Page, cluster: Cluster) -> None:
    await generated(page, prompt="a star", num_inference_steps=4)
    job = (await cluster.client.jobs("browser:ada"))[0]
    request = a_request("browser:ada", "again", job=f"{job.id}.{job.link}")
    draft = left(page, prompt="a moon", style="cartoon", num_inference_steps=6, seed=5, num_images=9, width=512)
    first, last = [update async for update in page.on_load(draft | {page.parts.randomize: False}, request)]
    assert first == {page.parts.controls["prompt"]: "a moon"}, "at once, as the cluster may not be there yet"
    assert page.parts.controls["prompt"] not in last
    names = ("style", "num_inference_steps", "seed", "num_images", "width")
    values = [last[page.parts.controls[name]]["value"] for name in names]
    assert values == ["cartoon", 6, 5, 1, 64], "what the model allows"
    message = last[page.parts.message]
    assert "Left out: Images must be 4 or less on this page, got 9. Width must be 64 for shapes, got 512." in message
    assert last[page.parts.randomize] is False


async def test_a_draft_keeps_values_that_are_the_defaults_of_another_model(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    blurry = replace(CARD, defaults=CARD.defaults | {"negative_prompt": "blurry"})
    slow = replace(CARD, id="slow", defaults=CARD.defaults | {"num_inference_steps": 20})

    async def models() -> list[ModelCard]:
        return [blurry, slow]

    monkeypatch.setattr(page._client, "models", models)
    draft = left(page, model="shapes", num_inference_steps=20, negative_prompt="")
    [opened] = [update async for update in page.on_load(draft, REQUEST)]
    names = ("model", "num_inference_steps", "negative_prompt")
    assert [opened[page.parts.controls[name]]["value"] for name in names] == ["shapes", 20, ""]
    assert page.parts.message not in opened


async def test_a_draft_for_a_model_that_is_gone_names_it(page: Page) -> None:
    draft = left(page, model="turbo", num_inference_steps=4, seed=-2) | {page.parts.randomize: False}
    [opened] = [update async for update in page.on_load(draft, REQUEST)]
    assert "Model “turbo” is not served here." in opened[page.parts.message]
    assert opened[page.parts.controls["num_inference_steps"]]["value"] == 4
    assert opened[page.parts.controls["seed"]]["value"] == -2, "Generate reports it"


async def test_a_form_that_was_left_without_a_prompt_is_filled_from_the_job_of_the_address(
    page: Page, cluster: Cluster
) -> None:
    await generated(page, prompt="a star", num_inference_steps=4)
    job = (await cluster.client.jobs("browser:ada"))[0]
    request = a_request("browser:ada", "again", job=f"{job.id}.{job.link}")
    [opened] = [update async for update in page.on_load(left(page, prompt="", num_inference_steps=8), request)]
    assert opened[page.parts.controls["prompt"]]["value"] == "a star"
    assert opened[page.parts.controls["num_inference_steps"]]["value"] == 4


async def test_more_of_the_jobs_can_be_listed_while_none_runs_and_while_one_does(page: Page, cluster: Cluster) -> None:
    for k in range(14):
        await generated(page, prompt=f"star {k}")
    newest = (await cluster.client.jobs("browser:ada"))[0]
    *_, shown = [update async for update in page.on_mine(REQUEST, clicked(act="show", job=newest.id))]
    assert shown[page.parts.mine].count("<li") == 12
    assert 'data-act="more"' in shown[page.parts.mine]
    more = clicked(act="more", job=newest.id)
    [listed] = [update async for update in page.on_mine(REQUEST, more)]
    assert list(listed) == [page.parts.mine, page.parts.listed], "the selected job stays"
    assert [f"star {k}<" in listed[page.parts.mine] for k in (13, 0)] == [True, True]
    assert listed[page.parts.mine].count('aria-current="true"') == 1
    assert 'data-act="more"' not in listed[page.parts.mine]
    oldest = (await cluster.client.jobs("browser:ada"))[-1]
    *_, shown = [u async for u in page.on_mine(REQUEST, clicked(act="show", job=oldest.id, listed="60"))]
    assert shown[page.parts.mine].count("<li") == 14

    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a moon"), REQUEST)
    await selected_job(page, updates)
    assert [update async for update in page.on_mine(REQUEST, more)] == [{page.parts.listed: 60}]
    while (await anext(updates)).get(page.parts.mine, "").count("<li") != 15:
        pass
    await updates.aclose()


async def test_the_next_job_leaves_as_many_listed_as_were(page: Page) -> None:
    for k in range(14):
        await generated(page, prompt=f"star {k}")
    [listed] = [update async for update in page.on_mine(REQUEST, clicked(act="more", job=""))]
    given = form(page, prompt="a moon") | {page.parts.listed: listed[page.parts.listed]}
    *_, last = [update async for update in page.on_generate(given, REQUEST)]
    assert last[page.parts.mine].count("<li") == 15


async def test_a_seed_and_all_settings_of_a_picture_can_be_used_again(page: Page, cluster: Cluster) -> None:
    await generated(page, prompt="a star", style="cartoon", num_images=2, num_inference_steps=4)
    job = (await cluster.client.jobs("browser:ada"))[0]
    which = {"job": f"{job.id}.{job.link}", "index": "1"}
    assert await page.reuse.on_reuse(form(page), REQUEST, clicked(act="seed", **which)) == {
        page.parts.controls["seed"]: job.specs[1].seed,
        page.parts.randomize: False,
    }
    filled = await page.reuse.on_reuse(form(page), REQUEST, clicked(act="settings", **which))
    names = ("prompt", "num_inference_steps", "style", "seed")
    values = {name: filled[page.parts.controls[name]]["value"] for name in names}
    assert values == {
        "prompt": "a star, cartoon",
        "num_inference_steps": 4,
        "style": controls.OPEN,
        "seed": job.specs[1].seed,
    }


async def test_a_dropped_picture_fills_the_form_and_a_stranger_is_refused(page: Page, tmp_path: Path) -> None:
    spec = resolve(GenerationRequest(prompt="a moon", seed=9), CARD)[0]
    dropped = tmp_path / "picture.png"
    dropped.write_bytes(picture(spec, text="a moon\nSteps: 6, Sampler: Euler, CFG scale: 3.5, Seed: 9, Size: 64x64"))
    filled = await page.reuse.on_picture(upload(page, dropped), REQUEST)
    assert filled[page.parts.controls["prompt"]]["value"] == "a moon"
    assert filled[page.parts.controls["sampler"]]["value"] == "euler"
    assert filled[page.parts.controls["seed"]]["value"] == 9
    dropped.write_bytes(b"no picture")
    assert 'data-state="problem"' in (await page.reuse.on_picture(upload(page, dropped), REQUEST))[page.parts.message]


async def test_the_words_that_a_style_adds_are_shown(page: Page) -> None:
    assert "…, cartoon" in (await page.on_style("cartoon"))["info"]
    assert (await page.on_style(""))["info"] == controls.FIELDS["style"].description


async def test_another_model_leaves_what_somebody_chose_and_brings_its_own_defaults(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = CARD.defaults | {"negative_prompt": "blurry", "num_inference_steps": 4, "guidance_scale": 1.0}
    turbo = replace(CARD, id="turbo", defaults=defaults, bounds=CARD.bounds | {"num_inference_steps": (1, 8)})

    async def models() -> list[ModelCard]:
        return [CARD, turbo]

    monkeypatch.setattr(page._client, "models", models)
    untouched = await page.on_model(form(page, model="turbo"))
    names = ("negative_prompt", "num_inference_steps", "guidance_scale")
    assert [untouched[page.parts.controls[name]]["value"] for name in names] == ["blurry", 4, 1.0]
    typed = form(page, model="turbo", negative_prompt="a tree", num_inference_steps=50, guidance_scale=2.5)
    fitted = await page.on_model(typed)
    assert "value" not in fitted[page.parts.controls["negative_prompt"]]
    assert "value" not in fitted[page.parts.controls["guidance_scale"]]
    assert fitted[page.parts.controls["num_inference_steps"]]["value"] == 4, "50 is more than the model allows"
    assert "Left out: Inference steps must be from 1 to 8 for turbo, got 50." in fitted[page.parts.message]
    assert page.parts.message not in untouched


async def test_the_page_counts_tokens_and_quotes_what_is_cut(page: Page) -> None:
    def words(prompt: str, syntax: str = "plain") -> dict[Any, Any]:
        typed = {"prompt": prompt, "negative_prompt": "", "style": "", "model": "shapes", "prompt_syntax": syntax}
        return {page.parts.controls[name]: value for name, value in typed.items()}

    assert "2/30 tokens" in await page.on_words(words("a star"))
    assert "2/30 tokens" in await page.on_words(words("a star <lora:chalk>", "weighted"))
    assert "the model will not read" in await page.on_words(words("a star " * 30))
    assert await page.on_words(words("")) == ""


async def test_an_example_says_when_the_cluster_is_down() -> None:
    page = Page(DispatcherClient(Down()))
    with pytest.raises(gr.Error, match="still starting"):
        await example_run(page)


async def test_the_page_fits_itself_to_the_model(page: Page) -> None:
    [fitted] = [update async for update in page.on_load(left(page), REQUEST)]
    [last] = [update async for update in page.on_return(REQUEST)]
    assert fitted[page.parts.controls["num_inference_steps"]]["value"] == 8
    assert CARD.notice in fitted[page.parts.notice]
    assert fitted[page.parts.generate]["interactive"] is True
    assert "Ready." in last[page.parts.status]


async def test_the_page_says_that_the_service_starts_until_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "RETRY_INTERVAL_S", 0.001)
    page = Page(DispatcherClient(Down(times=2)))
    updates = [update async for update in page.on_load(left(page), REQUEST)]
    assert ["still starting" in update.get(page.parts.status, "") for update in updates] == [True, True, False]


async def test_a_cluster_that_does_not_answer_shows_as_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Down):
        async def call(self, method: str, *args: Any) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr(page_module, "RETRY_INTERVAL_S", 0.001)
    page = Page(DispatcherClient(Silent()))
    updates = page.on_load(left(page), REQUEST)
    assert "still starting" in (await anext(updates))[page.parts.status]
    assert "still starting" in (await anext(updates))[page.parts.status]
    await updates.aclose()


async def test_a_cluster_that_is_down_shows_its_message_and_no_traceback() -> None:
    page = Page(DispatcherClient(Down()))
    updates = await generated(page, prompt="a star")
    assert "The service is still starting." in updates[-1][page.parts.message]


async def test_an_error_of_ours_becomes_a_plain_sentence(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> AsyncIterator[Job]:
        raise RuntimeError("secret")
        yield

    monkeypatch.setattr(page._client, "watch", broken)
    updates = await generated(page, prompt="a star")
    assert "Something went wrong on our side." in updates[-1][page.parts.status]
    assert "secret" not in updates[-1][page.parts.status]


def test_every_event_but_that_for_programs_is_private(page: Page) -> None:
    create_app(page._client, AccessPolicy())
    open_to_programs = [f.api_name for f in page.blocks.fns.values() if f.api_visibility != "private"]
    assert open_to_programs == ["generate"]


def test_the_application_is_built_without_a_cluster() -> None:
    assert build(UiConfig())._bound_deployment.name == "GradioIngress"


def test_the_page_does_not_import_torch() -> None:
    code = "import gradio_ingress.app, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


async def a_picture(page: Page, **values: Any) -> tuple[Job, dict[str, str]]:
    """A finished job, and what a click on its picture sends."""
    await generated(page, **{"prompt": "a star"} | values)
    [job, *_] = await page._client.jobs("browser:ada")
    return job, {"job": f"{job.id}.{job.link}", "index": "0"}


async def test_a_picture_can_begin_the_next_one(page: Page, cluster: Cluster) -> None:
    job, which = await a_picture(page)
    given = await page.reuse.on_reuse(form(page), REQUEST, clicked(act="input", fits="true", **which))
    assert given[page.parts.controls["init.input"]] == job.images[0].name
    assert given[page.parts.sections["init"]]["open"] is True
    await generated(page, prompt="a moon", init={"input": job.images[0].name, "strength": 0.5})
    init = cluster.pipeline.specs[1].init
    assert init is not None
    assert (init.input.startswith("input_"), init.strength) == (True, 0.5)


@pytest.mark.parametrize(("fits", "mask"), [("true", f"input_{'2' * 64}"), ("false", None)])
async def test_a_mask_stays_with_a_picture_of_its_size_and_what_was_replaced_can_come_back(
    page: Page, fits: str, mask: str | None
) -> None:
    had = {"input": f"input_{'1' * 64}", "mask": f"input_{'2' * 64}", "strength": 0.5, "area": "masked"}
    _, which = await a_picture(page)
    before = form(page, prompt="a star", init=had)
    given = await page.reuse.on_reuse(before, REQUEST, clicked(act="input", fits=fits, **which))
    assert given.get(page.parts.controls["init.mask"], had["mask"]) == mask
    assert ("The mask was removed" in given[page.parts.message]) == (mask is None)
    back = await page.on_undo(before | given, undo(given[page.parts.message]))
    assert {member: back[page.parts.controls[f"init.{member}"]]["value"] for member in had} == had
    assert page.parts.controls["prompt"] not in back


async def test_an_extension_can_be_taken_back(page: Page) -> None:
    had = {"input": f"input_{'1' * 64}", "strength": 0.5}
    before = form(page, init=had)
    given = page.reuse.on_extended(before, gr.EventData(None, {"image": "input_a", "mask": "input_b"}))
    assert given[page.parts.controls["init.input"]] == "input_a"
    back = await page.on_undo(before | given, undo(given[page.parts.message]))
    values = {
        path: back[page.parts.controls[f"init.{path}"]]["value"] for path in ("input", "mask", "area", "strength")
    }
    assert values == had | {"mask": None, "area": "whole"}


@pytest.mark.parametrize("gone", [f"input_{'0' * 64}", f"job_{'0' * 32}-0-1-1.png"])
async def test_an_image_that_has_gone_is_refused_on_its_control_and_can_be_chosen_again(page: Page, gone: str) -> None:
    job, _ = await a_picture(page)
    [update] = await generated(page, prompt="a moon", init={"input": gone, "strength": 0.5})
    assert "Image to begin with is gone. Choose it again." in update[page.parts.message]
    assert 'data-field="init-input"' in update[page.parts.message]
    init = {"input": job.images[0].name, "mask": gone, "strength": 0.5}
    [update] = await generated(page, prompt="a moon", init=init)
    assert "Mask is gone. Choose it again." in update[page.parts.message]
    assert 'data-field="init-mask"' in update[page.parts.message]


async def test_the_image_that_a_picture_began_with_is_restored_while_it_is_there(page: Page, cluster: Cluster) -> None:
    first, _ = await a_picture(page)
    job, which = await a_picture(page, prompt="a moon", init={"input": first.images[0].name, "strength": 0.5})
    init = job.specs[0].init
    assert init is not None
    filled = await page.reuse.on_reuse(form(page), REQUEST, clicked(act="settings", **which))
    values = {path: filled[page.parts.controls[path]]["value"] for path in ("init.input", "init.strength")}
    assert values == {"init.input": init.input, "init.strength": 0.5}
    assert filled[page.parts.sections["init"]]["open"] is True

    other = await page.reuse.on_reuse(form(page), a_request("browser:bob"), clicked(act="settings", **which))
    assert "is not yours" in other[page.parts.message]
    await cluster.client.delete_input(init.input, "browser:ada")
    filled = await page.reuse.on_reuse(form(page), REQUEST, clicked(act="settings", **which))
    assert filled[page.parts.controls["init.input"]]["value"] is None
    assert filled[page.parts.controls["prompt"]]["value"] == "a moon"
    assert "The image that it began with is gone" in filled[page.parts.message]


async def test_a_file_brings_back_the_image_that_it_began_with_while_that_is_there(
    page: Page, cluster: Cluster, tmp_path: Path
) -> None:
    first, _ = await a_picture(page)
    job, _ = await a_picture(page, prompt="a moon", init={"input": first.images[0].name, "strength": 0.5})
    dropped = tmp_path / "picture.png"
    dropped.write_bytes(encode_image(Decoded(np.zeros((64, 64, 3), np.uint8), False), job.specs[0], "0" * 64))
    filled = await page.reuse.on_picture(upload(page, dropped), REQUEST)
    init = job.specs[0].init
    assert init is not None
    assert filled[page.parts.controls["init.input"]]["value"] == init.input
    await cluster.client.delete_input(init.input, "browser:ada")
    dropped.write_bytes(encode_image(Decoded(np.zeros((64, 64, 3), np.uint8), False), job.specs[0], "0" * 64))
    filled = await page.reuse.on_picture(upload(page, dropped), REQUEST)
    assert "The image that it began with is gone" in filled[page.parts.message]
