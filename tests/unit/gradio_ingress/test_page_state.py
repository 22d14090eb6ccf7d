"""The jobs that a page follows."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from deployments.image_store import ImageStore
from deployments.jobs import Job
from deployments.schema import GenerationRequest
from gradio_ingress import page_state
from gradio_ingress.page_state import PageState, newest_jobs
from models.errors import Unavailable
from tests.unit.gradio_ingress.fakes import Cluster


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(page_state, "UPDATE_INTERVAL_S", 0)
    return Cluster(ImageStore(tmp_path))


async def submitted(cluster: Cluster, prompt: str = "a star", owner: str = "ada") -> Job:
    return await cluster.client.submit(GenerationRequest(prompt=prompt), owner)


async def test_changes_end_when_all_jobs_have(cluster: Cluster) -> None:
    state = PageState(cluster.client, "ada")
    state.select(await submitted(cluster))
    state.select(await submitted(cluster, "a moon"))
    assert [_ async for _ in state.changes()]
    assert [(job.specs[0].prompt, job.status) for job in state.jobs] == [
        ("a moon", "succeeded"),
        ("a star", "succeeded"),
    ]
    assert state.selected is not None
    assert state.selected.specs[0].prompt == "a moon"


async def test_without_a_selection_the_newest_job_that_has_not_ended_is_selected(cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    await submitted(cluster, "another's", owner="bob")
    job = await submitted(cluster)
    state = PageState(cluster.client, "ada")
    async for _ in state.changes():
        cluster.pipeline.go.set()
    assert state.selected is not None
    assert state.selected.id == job.id
    later = PageState(cluster.client, "ada")
    assert [_ async for _ in later.changes()]
    assert later.selected is None
    assert [each.id for each in later.jobs] == [job.id]


async def test_another_owners_job_can_be_selected_and_is_not_listed(cluster: Cluster) -> None:
    state = PageState(cluster.client, "ada")
    state.select(await submitted(cluster, owner="bob"))
    assert [_ async for _ in state.changes()]
    assert state.selected is not None
    assert state.selected.status == "succeeded"
    assert state.jobs == []


async def test_a_job_selected_during_the_last_change_is_followed_too(cluster: Cluster) -> None:
    state = PageState(cluster.client, "ada")
    async for _ in state.changes():
        if not state._watches and len(state.jobs) < 2:
            state.select(await submitted(cluster, "a moon"))
    assert state.selected is not None
    assert (state.selected.specs[0].prompt, state.selected.status) == ("a moon", "succeeded")


async def test_a_queue_that_cannot_be_reached_is_a_problem(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object) -> AsyncGenerator[Job]:
        raise Unavailable("The queue does not answer.")
        yield

    cluster.pipeline.go.clear()
    state = PageState(cluster.client, "ada")
    monkeypatch.setattr(cluster.client, "watch", down)
    state.select(await submitted(cluster))
    assert [_ async for _ in state.changes()]
    assert state.problem is not None
    assert state.problem.message == "The queue does not answer."


async def test_losing_another_job_does_not_hide_the_selected_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.pipeline.go.clear()
    lost, shown = await submitted(cluster), await submitted(cluster, "a moon")
    watch = cluster.client.watch

    def half_down(job_id: str) -> AsyncGenerator[Job]:
        if job_id == lost.id:
            raise Unavailable("The queue does not answer.")
        return watch(job_id)  # type: ignore[return-value]

    state = PageState(cluster.client, "ada")
    monkeypatch.setattr(cluster.client, "watch", half_down)
    state.select(shown)
    async for _ in state.changes():
        cluster.pipeline.go.set()
    assert state.problem is None
    assert state.selected is not None
    assert state.selected.status == "succeeded"


async def test_jobs_are_listed_page_by_page_as_far_as_wanted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_state, "MAX_PAGE", 3)
    jobs = [await submitted(cluster, f"star {k}") for k in range(7)]
    newest_first = [job.id for job in reversed(jobs)]
    for count in (1, 3, 4, 7, 100):
        assert [job.id for job in await newest_jobs(cluster.client, "ada", count)] == newest_first[:count]


async def test_jobs_that_are_listed_later_are_followed_too(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.pipeline.go.clear()
    older, newer = await submitted(cluster), await submitted(cluster, "a moon")
    state = PageState(cluster.client, "ada", listed=0)
    async for _ in state.changes():
        if older.id not in state._watches and not cluster.pipeline.go.is_set():
            assert [job.id for job in state.jobs] == [newer.id]
            state.list_jobs(await newest_jobs(cluster.client, "ada", 3), 2)
            cluster.pipeline.go.set()
    assert [(job.id, job.status) for job in state.jobs] == [(newer.id, "succeeded"), (older.id, "succeeded")]
