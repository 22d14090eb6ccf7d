"""The jobs that a page follows."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from deployments.image_store import ImageStore
from deployments.schema import GenerationRequest, Job
from gradio_ingress import board as board_module
from gradio_ingress.board import Board
from models.errors import Unavailable
from tests.unit.gradio_ingress.fakes import Cluster


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(board_module, "PACE_S", 0)
    return Cluster(ImageStore(tmp_path))


async def submitted(cluster: Cluster, prompt: str = "a star", owner: str = "ada") -> Job:
    return await cluster.client.submit(GenerationRequest(prompt=prompt), owner)


async def test_a_board_ends_when_all_its_jobs_have(cluster: Cluster) -> None:
    board = Board(cluster.client, "ada")
    board.show(await submitted(cluster))
    board.show(await submitted(cluster, "a moon"))
    assert [_ async for _ in board.changes()]
    assert [(job.specs[0].prompt, job.status) for job in board.own] == [
        ("a moon", "succeeded"),
        ("a star", "succeeded"),
    ]
    assert board.shown is not None
    assert board.shown.specs[0].prompt == "a moon"


async def test_with_nothing_on_the_stage_the_newest_unended_job_is_put_there(cluster: Cluster) -> None:
    cluster.pipeline.go.clear()
    await submitted(cluster, "another's", owner="bob")
    job = await submitted(cluster)
    board = Board(cluster.client, "ada")
    async for _ in board.changes():
        cluster.pipeline.go.set()
    assert board.shown is not None
    assert board.shown.id == job.id
    later = Board(cluster.client, "ada")
    assert [_ async for _ in later.changes()]
    assert later.shown is None
    assert [each.id for each in later.own] == [job.id]


async def test_anothers_job_is_shown_and_not_listed(cluster: Cluster) -> None:
    board = Board(cluster.client, "ada")
    board.show(await submitted(cluster, owner="bob"))
    assert [_ async for _ in board.changes()]
    assert board.shown is not None
    assert board.shown.status == "succeeded"
    assert board.own == []


async def test_a_job_shown_while_the_last_change_is_drawn_is_followed_too(cluster: Cluster) -> None:
    board = Board(cluster.client, "ada")
    async for _ in board.changes():
        if not board._watches and len(board.own) < 2:
            board.show(await submitted(cluster, "a moon"))
    assert board.shown is not None
    assert (board.shown.specs[0].prompt, board.shown.status) == ("a moon", "succeeded")


async def test_a_queue_that_cannot_be_reached_is_a_problem_to_tell(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: object) -> AsyncGenerator[Job]:
        raise Unavailable("The queue does not answer.")
        yield

    cluster.pipeline.go.clear()
    board = Board(cluster.client, "ada")
    monkeypatch.setattr(cluster.client, "watch", down)
    board.show(await submitted(cluster))
    assert [_ async for _ in board.changes()]
    assert board.problem is not None
    assert board.problem.message == "The queue does not answer."


async def test_a_job_behind_the_stage_that_is_lost_does_not_hide_the_one_on_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.pipeline.go.clear()
    lost, shown = await submitted(cluster), await submitted(cluster, "a moon")
    watch = cluster.client.watch

    def half_down(job_id: str) -> AsyncGenerator[Job]:
        if job_id == lost.id:
            raise Unavailable("The queue does not answer.")
        return watch(job_id)  # type: ignore[return-value]

    board = Board(cluster.client, "ada")
    monkeypatch.setattr(cluster.client, "watch", half_down)
    board.show(shown)
    async for _ in board.changes():
        cluster.pipeline.go.set()
    assert board.problem is None
    assert board.shown is not None
    assert board.shown.status == "succeeded"
