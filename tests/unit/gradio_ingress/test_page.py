"""What the page's handlers do, without a browser: the real Dispatcher over a fake pipeline."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from deployments.config import UiConfig
from deployments.dispatcher.client import DispatcherClient
from deployments.image_store import ImageStore
from gradio_ingress import controls
from gradio_ingress import page as page_module
from gradio_ingress.app import build, create_app
from gradio_ingress.page import Page
from models.errors import Unavailable
from tests.unit.gradio_ingress.fakes import CARD, Cluster


def a_request(owner: str | None, tab: str = "tab") -> Any:
    return SimpleNamespace(state=SimpleNamespace(owner=owner), session_hash=tab)


REQUEST = a_request("browser:ada")


class Down:
    """Calls to a cluster that is not there, `times` times; then to one that is."""

    def __init__(self, times: int = 10**6) -> None:
        self.times = times

    async def call(self, method: str, *args: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise Unavailable("The service is still starting.")
        return [CARD]

    async def stream(self, method: str) -> AsyncIterator[Any]:
        raise Unavailable("The service is still starting.")
        yield


@pytest.fixture
async def cluster(tmp_path: Path) -> Cluster:
    return Cluster(ImageStore(tmp_path))


@pytest.fixture
def page(cluster: Cluster) -> Page:
    return Page(cluster.client)


def form(page: Page, *, randomize: bool = True, **values: Any) -> dict[Any, Any]:
    """What the browser would send once the page has fitted itself to the model."""
    typed = {"model": CARD.id, "seed": 0} | controls.fill({}, CARD) | values
    return {page.controls[name]: value for name, value in typed.items()} | {page.randomize: randomize}


async def generated(page: Page, **values: Any) -> list[dict[Any, Any]]:
    return [update async for update in page.on_generate(form(page, **values), REQUEST)]


async def test_a_prompt_ends_in_a_picture_and_the_seed_that_was_used(page: Page, cluster: Cluster) -> None:
    updates = await generated(page, prompt="a star")
    last = updates[-1]
    spec = cluster.pipeline.specs[0]
    assert 'src="/v1/files/job_' in last[page.gallery]
    assert last[page.controls["seed"]] == spec.seed
    assert last[page.job_id] == ""
    assert last[page.generate]["interactive"] is True
    assert last[page.cancel]["visible"] is False


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
        ({"prompt": ""}, "Prompt: "),
        ({"prompt": "a star", "num_inference_steps": 500}, "less than or equal to 150"),
        ({"prompt": "a star", "num_inference_steps": 120}, "Inference steps must be from 1 to 100"),
        ({"prompt": "a star", "seed": -1, "randomize": False}, "Seed: "),
    ],
)
async def test_bad_input_shows_a_message_and_queues_nothing(
    page: Page, cluster: Cluster, values: dict[str, Any], words: str
) -> None:
    updates = await generated(page, **values)
    assert len(updates) == 1
    assert words in updates[0][page.status]
    assert updates[0][page.generate]["interactive"] is True
    assert page.gallery not in updates[0]
    assert not cluster.pipeline.specs


async def test_a_full_line_is_said_in_the_clusters_words(tmp_path: Path) -> None:
    crowded = Page(Cluster(ImageStore(tmp_path), max_waiting=1).client)
    updates = await generated(crowded, prompt="a star", num_images=4)
    assert "The line is full (1). Nothing was queued." in updates[-1][crowded.status]


async def test_cancel_ends_the_job_in_the_cluster(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    job_id = (await anext(updates))[page.job_id]
    await page.on_cancel(job_id, REQUEST)
    seen = [update async for update in updates]
    assert "Cancelled" in seen[-1][page.status]
    assert (await cluster.client.job(job_id)).status == "cancelled"


async def test_cancelling_what_has_ended_changes_nothing(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    job_id = (await anext(updates))[page.job_id]
    cluster.pipeline.go.set()
    assert [update async for update in updates]
    assert await page.on_cancel(job_id, REQUEST) == {}


async def test_another_tab_cannot_cancel_a_job(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    job_id = (await anext(updates))[page.job_id]
    other = a_request(None, "another")
    assert "There is no job" in (await page.on_cancel(job_id, other))[page.status]
    await page.on_cancel(job_id, REQUEST)
    await updates.aclose()


async def test_leaving_the_page_does_not_end_the_job(page: Page, cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    updates = page.on_generate(form(page, prompt="a star"), REQUEST)
    job_id = (await anext(updates))[page.job_id]
    await updates.aclose()
    cluster.pipeline.go.set()
    *_, last = [job async for job in cluster.client.watch(job_id)]
    assert last.status == "succeeded"


async def test_an_example_fills_the_form(page: Page) -> None:
    event = gr.EventData(None, {"index": 0})
    filled = await page.on_example({page.controls["model"]: "shapes", page.job_id: ""}, event)
    assert filled[page.controls["prompt"]] == CARD.examples[0]["prompt"]
    assert filled[page.controls["seed"]] == 7
    assert filled[page.randomize] is False


async def test_an_example_waits_while_a_picture_is_drawn(page: Page) -> None:
    with pytest.raises(gr.Error, match="One at a time"):
        await page.on_example(
            {page.controls["model"]: "shapes", page.job_id: "job_1"}, gr.EventData(None, {"index": 0})
        )


async def test_an_example_says_when_the_cluster_is_down() -> None:
    page = Page(DispatcherClient(Down()))
    with pytest.raises(gr.Error, match="still starting"):
        await page.on_example({page.controls["model"]: "shapes", page.job_id: ""}, gr.EventData(None, {"index": 0}))


async def test_the_page_fits_itself_to_the_model(page: Page) -> None:
    updates = [update async for update in page.on_load()]
    assert updates[-1][page.controls["num_inference_steps"]]["value"] == 8
    assert CARD.notice in updates[-1][page.notice]
    assert updates[-1][page.generate]["interactive"] is True


async def test_the_page_says_that_the_service_starts_until_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "ASK_AGAIN_S", 0.001)
    page = Page(DispatcherClient(Down(times=2)))
    updates = [update async for update in page.on_load()]
    assert ["still starting" in update[page.status] for update in updates] == [True, True, False]


async def test_a_cluster_that_does_not_answer_shows_as_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Down):
        async def call(self, method: str, *args: Any) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr(page_module, "ASK_AGAIN_S", 0.001)
    page = Page(DispatcherClient(Silent()))
    updates = page.on_load()
    assert "still starting" in (await anext(updates))[page.status]
    assert "still starting" in (await anext(updates))[page.status]
    await updates.aclose()


async def test_a_cluster_that_is_down_shows_its_message_and_no_traceback() -> None:
    page = Page(DispatcherClient(Down()))
    updates = await generated(page, prompt="a star")
    assert "The service is still starting." in updates[-1][page.status]


async def test_an_error_of_ours_becomes_a_plain_sentence(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(page._client, "submit", broken)
    updates = await generated(page, prompt="a star")
    assert "Something went wrong on our side." in updates[-1][page.status]
    assert "secret" not in updates[-1][page.status]


def test_every_event_is_private_and_unlimited(page: Page) -> None:
    create_app(page._client)
    functions = page.blocks.fns.values()
    assert {function.api_visibility for function in functions} == {"private"}


def test_the_application_is_built_without_a_cluster() -> None:
    assert build(UiConfig())._bound_deployment.name == "GradioIngress"


def test_the_page_does_not_import_torch() -> None:
    code = "import gradio_ingress.app, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
