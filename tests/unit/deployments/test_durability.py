"""What outlives a Dispatcher: it is dropped and another begins on the same database, as after a SIGKILL."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, text, update

from deployments.dispatcher import deployment as deployment_module
from deployments.dispatcher import durable_writer, replica_counts
from deployments.dispatcher import job_queue as job_queue_module
from deployments.dispatcher import sweeper as sweeper_module
from deployments.dispatcher.client import DispatcherClient
from deployments.dispatcher.clock import SteadyClock
from deployments.dispatcher.deployment import Dispatcher
from deployments.dispatcher.job_store import NotConfirmed
from deployments.dispatcher.job_tables import jobs
from deployments.errors import (
    Gone,
    IdempotencyKeyReused,
    NotFound,
    QueueFull,
    StorageFull,
    StoreUnavailable,
    Superseded,
    UnreadableJob,
)
from deployments.image_store import ImageStore
from deployments.jobs import Job
from deployments.schema import GenerationRequest
from models.errors import InvalidRequest, NonFinite, OutOfMemory, Refused, Unavailable
from tests.fakes import PATIENCE_S, STEPS, FakePipeline, Jumping, LocalCalls, a_dispatcher, settled, until

REQUEST = GenerationRequest(prompt="a circle", seed=7)


class Home:
    """A database and a folder of pictures, in which one Dispatcher follows another."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def dispatcher(self, pipeline: FakePipeline, **options: object) -> Dispatcher:
        return a_dispatcher(
            pipeline, database_url=f"sqlite:///{self._root / 'jobs.sqlite'}", images=self._root / "images", **options
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def held() -> FakePipeline:
    pipeline = FakePipeline()
    pipeline.hold()
    return pipeline


def silenced(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let its database answer nothing until what is returned is set."""
    answers, run = asyncio.Event(), dispatcher._writer._thread.run

    async def hang(*work: Any, **named: Any) -> Any:
        await answers.wait()
        return await run(*work, **named)

    monkeypatch.setattr(dispatcher._writer._thread, "run", hang)
    return answers


async def submit(dispatcher: Dispatcher, owner: str = "ada", pictures: int = 1, **fields: object) -> Job:
    return await dispatcher.submit(REQUEST.model_copy(update={"num_images": pictures, **fields}), owner)


async def end_of(dispatcher: Dispatcher, job: Job) -> Job:
    return (await all_of(DispatcherClient(LocalCalls(dispatcher)).watch(job.id)))[-1]


async def all_of(stream: AsyncIterator[Any]) -> list[Any]:
    async with asyncio.timeout(PATIENCE_S):
        return [item async for item in stream]


# -- after a death


async def test_what_had_not_ended_goes_on_in_its_old_order_without_anyone_asking(home: Home) -> None:
    first = home.dispatcher(held())
    jobs = [await submit(first, pictures=count) for count in (2, 1, 3)]
    pipeline = FakePipeline()
    second = home.dispatcher(pipeline)
    ends = [await end_of(second, job) for job in jobs]
    assert {end.status for end in ends} == {"succeeded"}
    assert [lease.job_id for lease in pipeline.started] == [job.id for job in jobs for _ in job.specs]
    assert [len(end.images) for end in ends] == [2, 1, 3]
    assert all("kept its place" in end.warnings[0] for end in ends)


async def test_what_had_ended_is_still_there(home: Home) -> None:
    first = home.dispatcher(FakePipeline())
    end = await end_of(first, await submit(first))
    second = home.dispatcher(FakePipeline())
    assert await second.job(end.id, "ada") == end
    assert await second.jobs("ada") == [end]


async def test_a_job_from_before_there_were_links_is_still_its_owners_and_no_link_opens_it(home: Home) -> None:
    first = home.dispatcher(FakePipeline())
    end = await end_of(first, await submit(first))
    with first._writer.store._connected() as connection:
        connection.execute(update(jobs).values(document=func.json_remove(jobs.c.document, "$.link")))
    second = home.dispatcher(FakePipeline())
    assert await second.job(end.id, "ada") == replace(end, link="")
    for link in ("", end.link):
        with pytest.raises(NotFound):
            await second.job(end.id, "bob", link)


async def test_a_failed_job_from_before_errors_named_a_field_is_still_there(home: Home) -> None:
    first = home.dispatcher(pipeline := FakePipeline())
    pipeline.problems = [NonFinite("It turned into NaN.")]
    failed = await end_of(first, await submit(first))
    with first._writer.store._connected() as connection:
        connection.execute(update(jobs).values(document=func.json_remove(jobs.c.document, "$.error.param")))
    assert await home.dispatcher(FakePipeline()).job(failed.id, "ada") == failed


async def test_a_picture_that_was_drawn_is_not_drawn_again(home: Home) -> None:
    pipeline = held()
    first = home.dispatcher(pipeline, max_rows=1)
    job = await submit(first, pictures=2)
    pipeline.allow(STEPS)
    await until(lambda: first._queue.job(job.id).images and not first._writer._unsaved)
    [drawn] = first._queue.job(job.id).images
    again = FakePipeline()
    end = await end_of(home.dispatcher(again), job)
    assert end.images[0] == drawn
    assert [lease.index for lease in again.started] == [1]


async def test_the_state_of_a_job_never_goes_back(home: Home) -> None:
    pipeline = held()
    first = home.dispatcher(pipeline)
    job = await submit(first)
    pipeline.allow(STEPS - 1)
    await until(lambda: pipeline.forwards == STEPS - 1)
    await settled()
    before = await first.job(job.id, "ada")
    second = home.dispatcher(held())
    await second._beginning
    assert (await second.job(job.id, "ada")).version > before.version


async def test_a_job_for_a_model_that_is_no_longer_served_fails_with_the_reason(home: Home) -> None:
    job = await submit(home.dispatcher(held()))
    second = home.dispatcher(FakePipeline())
    second._models["other"] = second._models.pop("shapes")
    end = await end_of(second, job)
    assert (end.status, end.error.code) == ("failed", "model_not_found")
    assert "shapes is no longer served" in end.error.message


async def test_a_broken_record_ends_neither_the_start_nor_lists_nor_watches(home: Home) -> None:
    first = home.dispatcher(held())
    broken, whole = [await first.submit(REQUEST, "ada", key) for key in ("k", "l")]
    with first._writer.store._connected() as connection:
        connection.execute(update(jobs).where(jobs.c.id == broken.id).values(document="{"))
    second = home.dispatcher(FakePipeline())
    assert (await end_of(second, whole)).status == "succeeded"
    assert [job.id for job in await second.jobs("ada")] == [whole.id]
    for ask in (
        second.job(broken.id, "ada"),
        second.cancel(broken.id, "ada"),
        second.submit(REQUEST, "ada", "k"),
        end_of(second, broken),
    ):
        with pytest.raises(UnreadableJob):
            await ask
    second.check_health()


# -- one in charge


async def test_who_begins_takes_the_denoisers_over_before_it_grants_anything(home: Home) -> None:
    first = held()
    await submit(home.dispatcher(first))
    second = held()
    follower = home.dispatcher(second)
    assert second.started == []
    await follower._beginning
    assert (first.epoch, second.epoch) == (1, 2)
    await until(lambda: second.started)
    assert {lease.epoch for lease in second.started} == {2}


async def test_who_was_taken_over_from_stops_and_says_so(home: Home) -> None:
    pipeline = held()
    first = home.dispatcher(pipeline)
    job = await submit(first)
    feed = first.feed()
    await anext(feed)
    second = home.dispatcher(FakePipeline())
    with pytest.raises(Superseded):
        await submit(first)
    await until(lambda: not pipeline.running)
    with pytest.raises(Superseded):
        first.check_health()
    with pytest.raises(Superseded):
        await all_of(feed)
    assert (await end_of(second, job)).status == "succeeded"


async def test_who_was_taken_over_from_ends_no_job(home: Home) -> None:
    first = home.dispatcher(held())
    job = await submit(first)
    second = home.dispatcher(FakePipeline())
    with pytest.raises(Superseded):
        await first.cancel(job.id, "ada")
    with pytest.raises(Superseded):
        await first.jobs("ada")
    assert (await end_of(second, job)).status == "succeeded"


async def test_who_has_nothing_to_write_notices_too_and_lets_its_readers_go(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "CONFIRM_INTERVAL_S", 0)
    first = home.dispatcher(FakePipeline())
    feed = first.feed()
    await anext(feed)
    home.dispatcher(FakePipeline())
    with pytest.raises(Superseded):
        await all_of(feed)


async def test_a_picture_of_who_was_taken_over_from_does_not_count(home: Home) -> None:
    pipeline = held()
    first = home.dispatcher(pipeline)
    job = await submit(first)
    second_pipeline = held()
    second = home.dispatcher(second_pipeline)
    await second._beginning
    pipeline.let_go()
    await until(lambda: not pipeline.running)
    await settled()
    with pytest.raises(Superseded):
        await first.job(job.id, "ada")
    assert (await second.job(job.id, "ada")).images == ()


# -- what is told is on disk


async def test_an_end_is_told_only_once_it_is_on_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_writer, "RETRY_INTERVAL_S", 0)
    dispatcher = home.dispatcher(FakePipeline())
    save, refused = dispatcher._writer.store.save, []

    def broken(job: Job) -> None:
        refused.append(job)
        raise StoreUnavailable("The disk is gone.")

    monkeypatch.setattr(dispatcher._writer.store, "save", broken)
    job = await submit(dispatcher)
    asked = asyncio.create_task(dispatcher.job(job.id, "ada"))
    watched = asyncio.create_task(end_of(dispatcher, job))
    await until(lambda: len(refused) > 3)
    assert not watched.done()
    monkeypatch.setattr(dispatcher._writer.store, "save", save)
    assert (await watched).status == "succeeded"
    assert (await asked).id == job.id
    assert dispatcher._writer.store.job(job.id).status == "succeeded"


async def test_an_end_that_the_queue_forgets_at_once_is_on_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_queue_module, "KEPT_JOBS", 0)
    dispatcher = home.dispatcher(FakePipeline())
    job = await submit(dispatcher)
    assert (await end_of(dispatcher, job)).status == "succeeded"
    assert job.id not in dispatcher._queue._jobs


async def test_what_cannot_be_written_is_not_accepted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = home.dispatcher(pipeline := FakePipeline())

    def broken(*_: object) -> None:
        raise StoreUnavailable("The disk is full.")

    monkeypatch.setattr(dispatcher._writer.store, "add", broken)
    with pytest.raises(StoreUnavailable):
        await submit(dispatcher)
    assert (pipeline.started, dispatcher._queue.waiting) == ([], 0)


async def test_what_is_wrong_with_the_database_is_said_until_it_can_be_written_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "CONFIRM_INTERVAL_S", 0)
    dispatcher = home.dispatcher(FakePipeline())
    add, confirm = dispatcher._writer.store.add, dispatcher._writer.store.confirm

    def broken(*_: object, **__: object) -> None:
        raise StoreUnavailable("The disk is full.")

    monkeypatch.setattr(dispatcher._writer.store, "add", broken)
    monkeypatch.setattr(dispatcher._writer.store, "confirm", broken)
    with pytest.raises(StoreUnavailable):
        await submit(dispatcher)
    await settled()
    assert await dispatcher.problem() == "The disk is full."
    monkeypatch.setattr(dispatcher._writer.store, "add", add)
    monkeypatch.setattr(dispatcher._writer.store, "confirm", confirm)
    await until(lambda: dispatcher._writer.problem is None)
    assert (await end_of(dispatcher, await submit(dispatcher))).status == "succeeded"


def limit_pages(dispatcher: Dispatcher, pages: int) -> None:
    """Let its database grow to so many pages, or no more: SQLite's own "database or disk is full"."""
    with dispatcher._writer.store._connected() as connection:
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))


async def test_a_full_disk_is_a_problem_until_a_job_fits_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_module, "CONFIRM_INTERVAL_S", 0)
    dispatcher = home.dispatcher(FakePipeline())
    confirm, confirmed = dispatcher._writer.store.confirm, []

    def counted(*, by_writing: bool = False) -> None:
        confirmed.append(by_writing)
        confirm(by_writing=by_writing)

    monkeypatch.setattr(dispatcher._writer.store, "confirm", counted)
    limit_pages(dispatcher, 1)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        await submit(dispatcher, prompt="a" * 4000)
    await until(lambda: confirmed.count(True) > 3)
    assert "disk is full" in str(await dispatcher.problem())
    limit_pages(dispatcher, 10_000)
    await until(lambda: dispatcher._writer.problem is None)
    assert (await end_of(dispatcher, await submit(dispatcher, prompt="a" * 4000))).status == "succeeded"


async def test_a_problem_that_comes_up_while_the_database_is_read_stays(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = home.dispatcher(FakePipeline())._writer

    def read(*, by_writing: bool = False) -> None:
        assert not by_writing
        writer.problem = "The disk is full."  # as an insert before it on the same thread has found

    monkeypatch.setattr(writer.store, "confirm", read)
    await writer.confirm()
    assert writer.problem == "The disk is full."


async def test_a_job_whose_end_waits_for_the_disk_is_a_503_for_who_asks_and_seen_by_who_watches(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable_writer, "FLUSH_TIMEOUT_S", 0.01)
    monkeypatch.setattr(durable_writer, "RETRY_INTERVAL_S", 0)
    dispatcher = home.dispatcher(pipeline := held(), max_rows=1)
    drawn, waiting = [await submit(dispatcher) for _ in range(2)]
    watched = asyncio.create_task(end_of(dispatcher, drawn))
    await until(lambda: dispatcher._feeds)
    save = dispatcher._writer.store.save

    def broken(_: Job) -> None:
        raise StoreUnavailable("The disk is full.")

    monkeypatch.setattr(dispatcher._writer.store, "save", broken)
    with pytest.raises(StoreUnavailable, match="The disk is full"):
        await dispatcher.cancel(waiting.id, "ada")
    pipeline.let_go()
    await until(lambda: dispatcher._writer.has_unsaved(drawn.id))
    with pytest.raises(StoreUnavailable, match="The disk is full"):
        await dispatcher.job(drawn.id, "ada")
    joins = asyncio.create_task(end_of(dispatcher, drawn))
    await asyncio.sleep(0.05)
    assert not watched.done()
    assert not joins.done()
    monkeypatch.setattr(dispatcher._writer.store, "save", save)
    assert [(await task).status for task in (watched, joins)] == ["succeeded"] * 2
    assert (await dispatcher.job(waiting.id, "ada")).status == "cancelled"


async def test_a_database_that_does_not_answer_is_a_problem_until_it_does(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "CONFIRM_INTERVAL_S", 0)
    monkeypatch.setattr(durable_writer, "CONFIRM_TIMEOUT_S", 0.05)
    dispatcher = home.dispatcher(held())
    known = await submit(dispatcher)
    answers = silenced(dispatcher, monkeypatch)
    dispatcher._go_and(dispatcher._withdraw(replace(known, id="job_0")))
    hangs = asyncio.create_task(submit(dispatcher))
    await until(lambda: dispatcher._writer.problem)
    assert await dispatcher.problem() == "The database has not answered for 0.05 s."
    answers.set()
    await hangs
    await until(lambda: dispatcher._writer.problem is None)


async def test_a_caller_who_leaves_while_a_job_is_accepted_leaves_it_in_line(home: Home) -> None:
    dispatcher = home.dispatcher(held())
    await dispatcher.models()
    caller = asyncio.create_task(submit(dispatcher))
    await until(dispatcher._accepting.locked)
    caller.cancel()
    await until(lambda: dispatcher._queue.running)
    assert len(await dispatcher.jobs("ada")) == 1


# -- keys


async def test_the_same_key_and_request_give_the_same_job_also_at_the_same_moment_and_after_a_death(home: Home) -> None:
    first = home.dispatcher(pipeline := held())
    jobs = await asyncio.gather(*(first.submit(REQUEST, "ada", "k") for _ in range(8)))
    assert len({job.id for job in jobs}) == 1
    assert len(pipeline.specs) == 1
    other = await first.submit(REQUEST, "bob", "k")
    assert other.id != jobs[0].id
    second = home.dispatcher(FakePipeline())
    assert (await second.submit(REQUEST, "ada", "k")).id == jobs[0].id


async def not_confirmed(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submit with the key k; the job is on disk, and the caller is told that it is not."""
    add = dispatcher._writer.store.add

    def unheard(*given: Any) -> None:
        add(*given)
        raise NotConfirmed("The server closed the connection.")

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher._writer.store, "add", unheard)
        with pytest.raises(StoreUnavailable, match="The server closed the connection"):
            await dispatcher.submit(REQUEST, "ada", "k")


async def test_a_commit_that_was_not_confirmed_is_a_problem(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = home.dispatcher(held())
    await not_confirmed(dispatcher, monkeypatch)
    assert await dispatcher.problem() == "The server closed the connection."


async def test_a_job_whose_commit_was_not_confirmed_is_drawn_when_its_key_comes_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "CONFIRM_INTERVAL_S", 0)
    dispatcher = home.dispatcher(FakePipeline())
    await not_confirmed(dispatcher, monkeypatch)
    first, again = [await dispatcher.submit(REQUEST, "ada", "k") for _ in range(2)]
    assert first.id == again.id
    assert (await end_of(dispatcher, first)).status == "succeeded"
    await until(lambda: not dispatcher._errands)
    assert [job.id for job in await dispatcher.jobs("ada")] == [first.id]


async def test_a_job_whose_commit_was_not_confirmed_is_gone_when_the_database_is_back(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "CONFIRM_INTERVAL_S", 0)
    dispatcher = home.dispatcher(held())
    withdraw, failures = dispatcher._writer.store.withdraw, iter([StoreUnavailable("It is not back yet.")])

    def once_it_is_back(job: Job) -> None:
        for failure in failures:
            raise failure
        withdraw(job)

    monkeypatch.setattr(dispatcher._writer.store, "withdraw", once_it_is_back)
    await not_confirmed(dispatcher, monkeypatch)
    assert len(await dispatcher.jobs("ada")) == 1
    await until(lambda: not dispatcher._errands)
    assert await dispatcher.jobs("ada") == []
    assert home.dispatcher(FakePipeline())._writer.store.jobs("ada") == []


async def test_what_a_caller_no_longer_waits_for_is_not_queued(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_module, "ACCEPT_WITHIN_S", 0.05)
    dispatcher = home.dispatcher(pipeline := held())
    await dispatcher.models()
    answers = silenced(dispatcher, monkeypatch)
    late = asyncio.create_task(submit(dispatcher))
    await asyncio.sleep(0.1)
    answers.set()
    with pytest.raises(Unavailable, match="Nothing was queued"):
        await late
    assert (await dispatcher.jobs("ada"), pipeline.started) == ([], [])


async def test_a_key_that_comes_with_another_request_is_refused(home: Home) -> None:
    dispatcher = home.dispatcher(held())
    await dispatcher.submit(REQUEST, "ada", "k")
    with pytest.raises(IdempotencyKeyReused):
        await dispatcher.submit(REQUEST.model_copy(update={"prompt": "a star"}), "ada", "k")
    assert len(await dispatcher.jobs("ada")) == 1


OURS = [NonFinite("It turned into NaN."), OutOfMemory("It does not fit."), StorageFull("No room."), ValueError("a bug")]


@pytest.mark.parametrize("error", OURS, ids=lambda error: type(error).__name__)
async def test_a_key_whose_job_failed_by_our_fault_gives_a_new_job(home: Home, error: Exception) -> None:
    dispatcher = home.dispatcher(pipeline := FakePipeline())
    pipeline.problems = [error]
    failed = await end_of(dispatcher, await dispatcher.submit(REQUEST, "ada", "k"))
    again = await dispatcher.submit(REQUEST, "ada", "k")
    assert (failed.status, again.id != failed.id) == ("failed", True)
    done = await end_of(dispatcher, again)
    assert (done.status, await dispatcher.submit(REQUEST, "ada", "k")) == ("succeeded", done)
    for each in (dispatcher, home.dispatcher(FakePipeline())):  # each keeps its id, and the key is the new one's
        assert await each.job(failed.id, "ada") == failed
        assert (await each.submit(REQUEST, "ada", "k")).id == done.id
        with pytest.raises(IdempotencyKeyReused):
            await each.submit(REQUEST.model_copy(update={"prompt": "a star"}), "ada", "k")


async def test_two_calls_with_the_key_of_a_failure_share_one_new_job(home: Home) -> None:
    dispatcher = home.dispatcher(pipeline := FakePipeline())
    pipeline.problems = [NonFinite()]
    failed = await end_of(dispatcher, await dispatcher.submit(REQUEST, "ada", "k"))
    pipeline.hold()
    both = await asyncio.gather(*(dispatcher.submit(REQUEST, "ada", "k") for _ in range(2)))
    assert {job.id for job in both} != {failed.id}
    assert len({job.id for job in both}) == 1


async def test_a_key_whose_job_the_caller_or_the_operator_ended_gives_that_again(home: Home) -> None:
    dispatcher = home.dispatcher(pipeline := FakePipeline())
    pipeline.problems = [Refused("The image shows a weapon.")]
    refused = await end_of(dispatcher, await dispatcher.submit(REQUEST, "ada", "refused"))
    assert (refused.status, await dispatcher.submit(REQUEST, "ada", "refused")) == ("failed", refused)
    pipeline.hold()
    cancelled = await dispatcher.cancel((await dispatcher.submit(REQUEST, "ada", "cancelled")).id, "ada")
    assert (await dispatcher.submit(REQUEST, "ada", "cancelled")).status == "cancelled"
    assert len(await dispatcher.jobs("ada")) == len({refused.id, cancelled.id})


async def test_a_key_whose_job_has_expired_gives_that_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_module, "FORECAST_INTERVAL_S", 0)
    dispatcher = home.dispatcher(pipeline := held(), deadline_s=0.01)
    expired = await end_of(dispatcher, await dispatcher.submit(REQUEST, "ada", "k"))
    assert (expired.status, await dispatcher.submit(REQUEST, "ada", "k")) == ("expired", expired)
    assert len(pipeline.started) == 1


async def test_the_key_of_a_failure_stays_its_own_while_there_is_no_room_for_a_new_job(home: Home) -> None:
    dispatcher = home.dispatcher(pipeline := FakePipeline(), max_waiting=1)
    pipeline.problems = [NonFinite()]
    failed = await end_of(dispatcher, await dispatcher.submit(REQUEST, "ada", "k"))
    pipeline.hold()
    for _ in range(3):
        await submit(dispatcher)
    with pytest.raises(QueueFull):
        await dispatcher.submit(REQUEST, "ada", "k")
    assert await dispatcher.job(failed.id, "ada") == failed
    pipeline.let_go()
    await until(lambda: not dispatcher._queue.waiting)
    assert (await end_of(dispatcher, await dispatcher.submit(REQUEST, "ada", "k"))).status == "succeeded"


async def test_a_known_key_is_answered_though_the_line_is_full(home: Home) -> None:
    dispatcher = home.dispatcher(held(), max_waiting=1)
    job = await dispatcher.submit(REQUEST, "ada", "k")
    for _ in range(2):
        await submit(dispatcher)
    with pytest.raises(QueueFull):
        await submit(dispatcher)
    assert (await dispatcher.submit(REQUEST, "ada", "k")).id == job.id


# -- what is left over


async def test_pictures_of_attempts_that_came_to_nothing_are_removed(home: Home, tmp_path: Path) -> None:
    images = ImageStore(tmp_path / "images")
    first = home.dispatcher(FakePipeline(images))
    [picture] = (await end_of(first, await submit(first))).images
    orphans = [picture.name.replace("-1-1.", "-1-2."), f".{picture.name}.partial"]
    for name in (picture.name, *orphans):
        (tmp_path / "images" / name).write_bytes(b"12345")
        os.utime(tmp_path / "images" / name, (0, 1000.0))
    (tmp_path / "images" / picture.name.replace("-1-1.", "-1-3.")).write_bytes(b"of a moment ago")
    (tmp_path / "images" / "notes").mkdir()
    home.dispatcher(FakePipeline())
    await until(lambda: len(list((tmp_path / "images").glob("*job_*"))) == 2)
    assert (tmp_path / "images" / "notes").is_dir()
    assert images.get(picture.name)


# -- too much


async def test_beyond_the_backlog_that_the_operator_allows_nothing_is_queued(home: Home) -> None:
    dispatcher = home.dispatcher(pipeline := held(), max_backlog_s=0.001)
    await submit(dispatcher)
    with pytest.raises(QueueFull, match="There is work for") as caught:
        await submit(dispatcher)
    assert caught.value.retry_after_s >= 1
    pipeline.let_go()
    await until(lambda: not dispatcher._queue.running)
    await submit(dispatcher)


# -- time


async def test_a_job_past_its_deadline_expires_wherever_it_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_module, "FORECAST_INTERVAL_S", 0)
    dispatcher = home.dispatcher(pipeline := held(), max_rows=1)
    running, waiting = [await submit(dispatcher, deadline_s=0.05) for _ in range(2)]
    for job in (running, waiting):
        end = await end_of(dispatcher, job)
        assert (end.status, end.error.code) == ("expired", "deadline_exceeded")
    await until(lambda: not pipeline.running)
    assert dispatcher._queue.running == []


async def test_jobs_that_expire_while_the_database_is_away_are_told_when_it_is_back(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "FORECAST_INTERVAL_S", 0)
    monkeypatch.setattr(durable_writer, "RETRY_INTERVAL_S", 0)
    dispatcher = home.dispatcher(pipeline := held(), max_rows=1)
    jobs = [await submit(dispatcher, deadline_s=0.05) for _ in range(2)]
    later = await submit(dispatcher, deadline_s=0.2)
    save = dispatcher._writer.store.save

    def broken(_: Job) -> None:
        raise StoreUnavailable("The disk is gone.")

    monkeypatch.setattr(dispatcher._writer.store, "save", broken)
    await until(lambda: dispatcher._queue.job(later.id).ended)  # the first ones do not hold the others up
    await until(lambda: pipeline.running == 0)
    asked = [asyncio.create_task(dispatcher.job(job.id, "ada")) for job in (*jobs, later)]
    await settled()
    assert not any(task.done() for task in asked)
    monkeypatch.setattr(dispatcher._writer.store, "save", save)
    assert [(await task).status for task in asked] == ["expired"] * 3


async def test_deadlines_and_the_queue_do_not_wait_for_a_controller_that_does_not_answer(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "FORECAST_INTERVAL_S", 0)
    monkeypatch.setattr(replica_counts, "COUNT_TIMEOUT_S", 0.01)
    answers, asked = threading.Event(), []

    def replicas() -> dict[str, Any]:
        asked.append(1)
        answers.wait()
        return {}

    dispatcher = home.dispatcher(held(), replicas=replicas)
    job = await submit(dispatcher, deadline_s=0.05)
    for _ in range(3):
        assert (await dispatcher.queue()).running <= 1
    assert (await end_of(dispatcher, job)).status == "expired"
    assert len(asked) == 1
    answers.set()


async def test_open_jobs_that_came_before_one_that_has_ended_are_found(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = home.dispatcher(held())
    running, waiting, ended = [await submit(dispatcher) for _ in range(3)]
    await dispatcher.cancel(ended.id, "ada")
    monkeypatch.setattr(job_queue_module, "KEPT_JOBS", 0)
    newest = await submit(dispatcher)
    await dispatcher.cancel(newest.id, "ada")  # and is on disk alone
    for after in (newest.id, ended.id):
        assert [job.id for job in await dispatcher.jobs("ada", "running", after=after)] == [waiting.id, running.id][-2:]
    assert [job.id for job in await dispatcher.jobs("ada", "running", after=waiting.id)] == [running.id]


async def test_a_deadline_beyond_what_the_operator_allows_is_refused(home: Home) -> None:
    dispatcher = home.dispatcher(held(), deadline_s=30, max_deadline_s=60)
    with pytest.raises(InvalidRequest, match="deadline_s must be at most 60, got 61"):
        await submit(dispatcher, deadline_s=61)
    job = await submit(dispatcher)
    assert job.timestamps.deadline is not None


async def test_results_are_kept_for_their_time_and_then_gone_with_their_pictures(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper_module, "SWEEP_INTERVAL_S", 0.01)
    images = ImageStore(tmp_path / "images")
    first = home.dispatcher(FakePipeline(images))
    end = await end_of(first, await submit(first))
    assert list((tmp_path / "images").glob("job_*"))
    second = home.dispatcher(FakePipeline(images), result_ttl_s=0.001)
    own = await submit(second)
    await end_of(second, own)
    await until(lambda: second._queue.jobs("ada") == [] and not list((tmp_path / "images").glob("job_*")))
    for job in (end, own):  # also of one that this Dispatcher has drawn
        with pytest.raises(Gone):
            await second.job(job.id, "ada")
    with pytest.raises(Gone, match=r"^after: The result of") as caught:
        await second.jobs("ada", after=own.id)
    assert caught.value.param == "after"


async def test_a_sweep_that_fails_is_made_again(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper_module, "SWEEP_INTERVAL_S", 0.01)
    images = ImageStore(tmp_path / "images")
    first = home.dispatcher(FakePipeline(images))
    await end_of(first, await submit(first))
    second = home.dispatcher(FakePipeline(images), result_ttl_s=0.001)
    expire, failures = second._writer.store.expire, iter([NotImplementedError("this filesystem cannot")])

    def now_and_then(*given: Any) -> dict[str, list[str]]:
        for failure in failures:
            raise failure
        return expire(*given)

    monkeypatch.setattr(second._writer.store, "expire", now_and_then)
    await until(lambda: not list((tmp_path / "images").glob("job_*")))


async def test_a_dispatcher_of_which_a_part_has_stopped_is_unwell(home: Home) -> None:
    async def stopped() -> None:
        raise RuntimeError("for no reason")

    dispatcher = home.dispatcher(FakePipeline())
    dispatcher.check_health()
    dispatcher._background.append(asyncio.create_task(stopped()))
    await settled()
    with pytest.raises(RuntimeError, match="for no reason"):
        dispatcher.check_health()


@pytest.fixture
def jumping() -> Jumping:
    return Jumping()


async def test_a_clock_that_jumps_by_eight_days_expires_no_result(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jumping: Jumping
) -> None:
    monkeypatch.setattr(sweeper_module, "SWEEP_INTERVAL_S", 0.0)
    images = ImageStore(tmp_path / "images")
    dispatcher = home.dispatcher(FakePipeline(images), clock=jumping.clock)
    end = await end_of(dispatcher, await submit(dispatcher))
    sweeps, expire = [], dispatcher._writer.store.expire

    def counted(*given: Any) -> dict[str, list[str]]:
        sweeps.append(given)
        return expire(*given)

    monkeypatch.setattr(dispatcher._writer.store, "expire", counted)
    jumping.ahead_s += 8 * 86400
    await until(lambda: len(sweeps) > 2)
    assert (await dispatcher.job(end.id, "ada")).images == end.images
    assert list((tmp_path / "images").glob("job_*"))
    jumping.later(8 * 86400)  # and in that time they do expire
    await until(lambda: not list((tmp_path / "images").glob("job_*")))


async def test_a_clock_that_jumps_by_an_hour_ends_no_waiting_job(
    home: Home, monkeypatch: pytest.MonkeyPatch, jumping: Jumping
) -> None:
    monkeypatch.setattr(deployment_module, "FORECAST_INTERVAL_S", 0)
    dispatcher = home.dispatcher(held(), clock=jumping.clock, max_rows=1)
    waiting = [await submit(dispatcher, deadline_s=1800) for _ in range(2)][1]
    expire, looked = dispatcher._queue.expire, []

    def counted(now: float) -> list[Job]:
        looked.append(now)
        return expire(now)

    monkeypatch.setattr(dispatcher._queue, "expire", counted)
    jumping.ahead_s += 3600
    await until(lambda: len(looked) > 2)
    assert (await dispatcher.job(waiting.id, "ada")).status == "queued"
    assert (await submit(dispatcher)).timestamps.created < waiting.timestamps.created + 60
    jumping.later(1800)
    assert (await end_of(dispatcher, waiting)).status == "expired"


async def test_a_dispatcher_that_begins_expires_by_age_only_after_an_hour_and_by_bytes_at_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper_module, "SWEEP_INTERVAL_S", 0.0)
    first = home.dispatcher(FakePipeline())
    end = await end_of(first, await submit(first))
    wrong = SteadyClock(system=lambda: time.time() + 8 * 86400)
    second = home.dispatcher(FakePipeline(), clock=wrong)
    expire, sweeps = second._writer.store.expire, []

    def counted(*given: Any) -> dict[str, list[str]]:
        sweeps.append(given)
        return expire(*given)

    monkeypatch.setattr(second._writer.store, "expire", counted)
    await until(lambda: len(sweeps) > 2)
    assert (await second.job(end.id, "ada")).status == "succeeded"
    third = home.dispatcher(FakePipeline(), clock=wrong, max_result_bytes=0)
    await until(lambda: third._writer.store.jobs("ada") == [])
