"""The Dispatcher and its client over a pipeline that waits for a sign before each step."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from contextvars import Context, ContextVar
from dataclasses import replace
from typing import Any

import pytest
from ray.serve.context import _get_serve_request_context

from deployments.dispatcher import client as client_module
from deployments.dispatcher import deployment as deployment_module
from deployments.dispatcher import replica_counts
from deployments.dispatcher.client import DispatcherClient
from deployments.dispatcher.clock import SteadyClock
from deployments.dispatcher.deployment import Dispatcher
from deployments.dispatcher.forecaster import COLD_START_S
from deployments.dispatcher.lease import Lease
from deployments.dispatcher.queue_stats import Replicas
from deployments.errors import JobEnded, NotFound, QueueFull, ReplicaLost, StoreUnavailable
from deployments.jobs import Job, new_job
from deployments.schema import GenerationRequest
from models.errors import DarkroomError, NonFinite, Unavailable
from models.spec import ImageSpec
from tests.fakes import PATIENCE_S, STEPS, FakePipeline, LocalCalls, a_dispatcher, a_spec, settled, until

REQUEST = GenerationRequest(prompt="a circle", seed=7)


class Cluster:
    """A Dispatcher over a fake pipeline, and a client of it. Two guided pictures are in flight at a time."""

    def __init__(self, calls: Callable[[Dispatcher], Any] = LocalCalls, **options: Any) -> None:
        self.pipeline = FakePipeline()
        self.pipeline.hold()
        self.dispatcher = a_dispatcher(self.pipeline, **options)
        self.client = DispatcherClient(calls(self.dispatcher))

    async def submit(self, pictures: int = 1, owner: str = "ada") -> Job:
        request = REQUEST.model_copy(update={"num_images": pictures})
        return await self.client.submit(request, owner)

    async def ended(self, job: Job) -> Job:
        """Let everything go, and return how the job ended."""
        self.pipeline.let_go()
        return [state async for state in states(self.client, job)][-1]


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


async def states(client: DispatcherClient, job: Job) -> AsyncIterator[Job]:
    """A watch that is closed when the test leaves it."""
    async with asyncio.timeout(PATIENCE_S), aclosing(client.watch(job.id)) as watch:
        async for state in watch:
            yield state


# -- one job


async def test_too_few_steps_for_a_sampler_are_a_warning_in_the_job_and_no_refusal(cluster: Cluster) -> None:
    request = GenerationRequest(prompt="a circle", seed=7, sampler="euler", num_inference_steps=2)
    job = await cluster.client.submit(request, "ada")
    assert job.warnings == ("num_inference_steps: euler needs 3 or more with this model; 2 leave noise.",)
    assert (await cluster.ended(job)).status == "succeeded"


async def test_a_job_is_queued_runs_and_ends_with_its_pictures(cluster: Cluster) -> None:
    job = await cluster.submit(pictures=3)
    assert job.status == "running"
    assert (await cluster.client.queue()).waiting == 1
    end = await cluster.ended(job)
    assert end.status == "succeeded"
    assert [(image.index, image.seed, image.attempts) for image in end.images] == [(0, 7, 1), (1, 8, 1), (2, 9, 1)]
    queue = await cluster.client.queue()
    assert (queue.waiting, queue.running, queue.eta_s) == (0, 0, 0.0)


async def test_a_watcher_sees_newer_and_newer_states_until_the_end_and_then_the_watch_ends(cluster: Cluster) -> None:
    job = await cluster.submit()
    seen = []
    async for state in states(cluster.client, job):
        seen.append(state)
        cluster.pipeline.allow(1)
    versions, steps = [state.version for state in seen], [state.progress.step for state in seen[:-1]]
    assert versions == sorted(set(versions))
    assert steps == sorted(steps)
    assert len(set(steps)) > STEPS // 2
    assert (seen[-1].status, seen[-1]) == ("succeeded", await cluster.client.job(job.id))


async def test_a_slow_watcher_gets_the_newest_state_and_none_in_between(cluster: Cluster) -> None:
    job = await cluster.submit()
    watch = states(cluster.client, job)
    assert (await anext(watch)).progress.step == 0
    cluster.pipeline.allow(5)
    await until(lambda: cluster.pipeline.forwards == 5)
    await settled()
    assert (await anext(watch)).progress.step == 5
    cluster.pipeline.let_go()
    await until(lambda: cluster.pipeline.left)
    await settled()
    assert [state.status async for state in watch] == ["succeeded"]


async def test_a_watcher_that_joins_late_gets_the_present_state(cluster: Cluster) -> None:
    job = await cluster.submit()
    early = states(cluster.client, job)
    await anext(early)
    cluster.pipeline.allow(4)
    await until(lambda: cluster.pipeline.forwards == 4)
    await settled()
    late = states(cluster.client, job)
    assert (await anext(late)).progress.step == 4
    cluster.pipeline.let_go()
    assert [[state async for state in watch][-1].status for watch in (early, late)] == ["succeeded"] * 2


async def test_a_watcher_of_an_ended_job_gets_one_state(cluster: Cluster) -> None:
    end = await cluster.ended(await cluster.submit())
    assert [state async for state in states(cluster.client, end)] == [end]


async def test_leaving_a_watch_does_not_cancel(cluster: Cluster) -> None:
    job = await cluster.submit()
    watch = states(cluster.client, job)
    await anext(watch)
    await watch.aclose()
    assert (await cluster.ended(job)).status == "succeeded"


async def test_watchers_share_one_feed_that_closes_when_the_last_has_gone(cluster: Cluster) -> None:
    job = await cluster.submit()
    ends = [asyncio.create_task(cluster.ended(job)) for _ in range(20)]
    await until(lambda: cluster.dispatcher._feeds)
    assert len(cluster.dispatcher._feeds) == 1
    assert {end.status for end in await asyncio.gather(*ends)} == {"succeeded"}
    assert cluster.client._watchers == {}
    await cluster.ended(await cluster.submit())
    await until(lambda: len(cluster.dispatcher._feeds) <= 1)


async def test_a_waiting_job_is_told_its_place_and_time(cluster: Cluster) -> None:
    await cluster.submit(pictures=2)
    jobs = [await cluster.submit(owner=owner) for owner in ("bob", "cy")]
    for position, job in enumerate(jobs, 1):
        async for state in states(cluster.client, job):
            if state.queue and state.queue.size == 2:  # the first may have been told its place before the second came
                assert state.queue.position == position
                assert state.queue.eta_s > 0
                break


async def test_places_of_jobs_that_nobody_asks_for_are_not_told(cluster: Cluster) -> None:
    await cluster.submit(pictures=2)
    asked, other = [await cluster.submit(owner=owner) for owner in ("bob", "cy")]
    told = asyncio.create_task(anext(state async for state in states(cluster.client, asked) if state.queue))
    changes = []
    async with aclosing(cluster.dispatcher.feed()) as feed:
        while asked.id not in [job.id for job in changes]:
            changes += await anext(feed)
    assert (await told).queue.position == 1
    assert other.id not in [job.id for job in changes]
    assert (await cluster.client.job(other.id)).queue.position == 2


async def test_a_job_that_has_to_wake_a_stage_is_told_how_long_that_may_take() -> None:
    cluster = Cluster(replicas=lambda: {"text_encoder": Replicas(1), "denoiser": Replicas(0), "vae": Replicas(1)})
    job = await cluster.submit()
    async for state in states(cluster.client, job):
        if state.progress.eta_s > COLD_START_S - 5:
            assert state.progress.eta_most_s > state.progress.eta_s + COLD_START_S - 5
            break


# -- what is somebody else's, or is not


async def test_somebody_elses_job_is_not_found(cluster: Cluster) -> None:
    job = await cluster.submit(owner="ada")
    with pytest.raises(NotFound):
        await cluster.client.job(job.id, "bob")
    with pytest.raises(NotFound):
        await cluster.client.cancel(job.id, "bob")
    with pytest.raises(NotFound):
        await anext(cluster.client.watch("job_of_nobody"))
    assert await cluster.client.jobs("bob") == []
    assert (await cluster.client.job(job.id, "ada")).status == "running"
    assert cluster.client._watchers == {}


async def test_who_has_a_jobs_link_may_read_it_and_no_more(cluster: Cluster) -> None:
    job = await cluster.submit(owner="ada")
    assert (await cluster.client.job(job.id, "bob", job.link)).status == "running"
    with pytest.raises(NotFound):
        await cluster.client.cancel(job.id, "bob")
    assert await cluster.client.jobs("bob") == []
    end = await cluster.ended(job)
    cluster.dispatcher._queue._jobs.clear()  # from now on it is on disk only
    assert await cluster.client.job(job.id, "bob", job.link) == end


@pytest.mark.parametrize("link", ["", "wrong", "é", "\ud800", "x" * 3000])
async def test_a_wrong_link_opens_nothing(cluster: Cluster, link: str) -> None:
    job, other = await cluster.submit(owner="ada"), await cluster.submit(owner="ada")
    for given in (link, other.link, job.link[:-1]):
        with pytest.raises(NotFound):
            await cluster.client.job(job.id, "bob", given)
    assert (await cluster.client.job(job.id, "ada", link)).status == "running"


async def test_a_full_queue_refuses_the_whole_job_and_says_when_to_come_back() -> None:
    cluster = Cluster(max_waiting=2)
    job = await cluster.submit(pictures=2)
    await cluster.submit(pictures=2)
    with pytest.raises(QueueFull) as caught:
        await cluster.submit(owner="bob")
    assert 1 <= caught.value.retry_after_s <= 120
    assert await cluster.client.jobs("bob") == []
    assert (await cluster.client.queue()).waiting == 2
    assert (await cluster.ended(job)).status == "succeeded"


# -- cancelling


async def test_cancelling_leaves_the_pipeline_and_makes_no_more_forwards(cluster: Cluster) -> None:
    job = await cluster.submit(pictures=2)
    cluster.pipeline.allow(3)
    await until(lambda: cluster.pipeline.forwards == 3)
    assert (await cluster.client.cancel(job.id)).status == "cancelled"
    await until(lambda: len(cluster.pipeline.left) == 2)
    cluster.pipeline.let_go()
    await settled()
    assert cluster.pipeline.forwards == 3
    assert (await cluster.client.job(job.id)).status == "cancelled"
    with pytest.raises(JobEnded):
        await cluster.client.cancel(job.id)


async def test_cancelling_ends_a_watch_and_lets_the_next_in_line_start(cluster: Cluster) -> None:
    job, other = await cluster.submit(pictures=5), await cluster.submit()
    watch = states(cluster.client, job)
    assert (await anext(watch)).status == "running"
    await cluster.client.cancel(job.id)
    assert [state.status async for state in watch] == ["cancelled"]
    assert (await cluster.ended(other)).status == "succeeded"


async def test_a_job_cancelled_in_the_moment_of_its_grant_lets_the_next_in_line_start(cluster: Cluster) -> None:
    await cluster.dispatcher._beginning
    job, other = new_job([a_spec()] * 2, "ada", 0.0), new_job([a_spec()], "ada", 0.0)
    for each in (job, other):
        cluster.dispatcher._contexts[each.id] = Context()
        cluster.dispatcher._queue.submit(each)
    cluster.dispatcher._pump()
    await cluster.client.cancel(job.id)  # its pictures have had no turn of the event loop yet
    assert job.id not in {lease.job_id for lease in cluster.pipeline.started}
    assert (await cluster.ended(other)).status == "succeeded"
    assert cluster.dispatcher._tasks == {}


async def test_a_picture_is_drawn_in_its_jobs_name_and_trace_whoevers_request_starts_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace: ContextVar[str] = ContextVar("trace")
    drawn: dict[str, tuple[str, str]] = {}
    generate = cluster.pipeline.generate

    def noted(spec: ImageSpec, lease: Lease) -> AsyncIterator[Any]:
        drawn[lease.job_id] = _get_serve_request_context().request_id, trace.get()
        return generate(spec, lease)

    monkeypatch.setattr(cluster.pipeline, "generate", noted)
    jobs = []
    for request in ("the first request", "the second"):
        trace.set(request)
        jobs.append(await cluster.submit(pictures=2))
    trace.set("a third")
    await cluster.ended(jobs[1])
    assert drawn == {jobs[0].id: (jobs[0].id, "the first request"), jobs[1].id: (jobs[1].id, "the second")}
    assert cluster.dispatcher._contexts == {}


# -- what goes wrong


async def test_a_picture_whose_replicas_die_twice_is_drawn_at_the_third_attempt(cluster: Cluster) -> None:
    cluster.pipeline.problems = [ReplicaLost(), ReplicaLost()]
    end = await cluster.ended(await cluster.submit())
    assert (end.status, end.images[0].attempts, len(end.warnings)) == ("succeeded", 3, 1)
    assert "restarted" in end.warnings[0]


async def test_a_picture_whose_replicas_die_three_times_fails_its_job(cluster: Cluster) -> None:
    cluster.pipeline.problems = [ReplicaLost() for _ in range(3)]
    end = await cluster.ended(await cluster.submit())
    assert (end.status, end.error.code, end.images) == ("failed", "replica_lost", ())
    assert len(cluster.pipeline.started) == 3


async def test_our_own_error_fails_the_job_with_its_code_and_message(cluster: Cluster) -> None:
    cluster.pipeline.problems = [NonFinite("The picture turned into NaN.")]
    end = await cluster.ended(await cluster.submit())
    assert (end.status, end.error.code, end.error.message) == ("failed", "non_finite", "The picture turned into NaN.")


async def test_an_unexpected_error_fails_the_job_without_its_details(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.pipeline.problems = [ValueError("secret /home/ada/weights")]
    with caplog.at_level(logging.ERROR):
        end = await cluster.ended(await cluster.submit())
    assert (end.status, end.error.code) == ("failed", "internal_error")
    assert end.error.message == "Something went wrong on our side."
    assert "secret" in caplog.text


async def test_a_failed_picture_takes_the_others_of_its_job_out_of_the_pipeline(cluster: Cluster) -> None:
    cluster.pipeline.problems = [NonFinite("NaN")]
    job = await cluster.submit(pictures=2)
    await until(lambda: cluster.pipeline.running == 2)
    cluster.pipeline.allow(1)
    await until(lambda: len(cluster.pipeline.left) == 2)
    assert cluster.pipeline.forwards == 1
    assert (await cluster.client.job(job.id)).status == "failed"


async def test_a_job_that_fails_lets_the_next_in_line_start(cluster: Cluster) -> None:
    cluster.pipeline.problems = [NonFinite("NaN")]
    failed, other = await cluster.submit(pictures=5), await cluster.submit()
    assert (await cluster.ended(other)).status == "succeeded"
    assert (await cluster.client.job(failed.id)).status == "failed"


async def test_a_cut_prompt_gives_a_warning_that_quotes_it(cluster: Cluster) -> None:
    cluster.pipeline.cut = {"prompt": "and a green star"}
    end = await cluster.ended(await cluster.submit())
    assert [warning for warning in end.warnings if "“and a green star”" in warning] == list(end.warnings)
    assert len(end.warnings) == 1


# -- how much is in flight


@pytest.mark.parametrize(("max_rows", "in_flight"), [(1, 1), (2, 2), (4, 4)])
async def test_twice_the_rows_of_the_denoiser_are_in_flight_and_no_more(max_rows: int, in_flight: int) -> None:
    cluster = Cluster(max_rows=max_rows)
    cluster.pipeline.max_rows = max_rows
    job = await cluster.submit(pictures=8)
    await settled()
    assert cluster.pipeline.running == in_flight
    while len(cluster.pipeline.left) < 8:
        before = cluster.pipeline.forwards
        cluster.pipeline.allow(1)
        await until(lambda before=before: cluster.pipeline.forwards > before)
        await settled()
        assert cluster.pipeline.running == min(in_flight, 8 - len(cluster.pipeline.left))
    assert (await cluster.client.job(job.id)).status == "succeeded"


async def test_new_replicas_get_pictures_without_waiting_for_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_module, "FORECAST_INTERVAL_S", 0.0)
    monkeypatch.setattr(replica_counts, "COUNT_INTERVAL_S", 0.0)
    replicas = {"denoiser": Replicas(1)}
    cluster = Cluster(replicas=lambda: replicas)
    await cluster.submit(pictures=8)
    await settled()
    assert cluster.pipeline.running == 2
    replicas["denoiser"] = Replicas(3)
    await until(lambda: cluster.pipeline.running == 6)
    replicas["denoiser"] = Replicas(0)
    await settled()
    assert cluster.pipeline.running == 6


async def test_the_queue_tells_pictures_replicas_and_rows(cluster: Cluster) -> None:
    await cluster.submit(pictures=4)
    cluster.pipeline.allow(2)
    await until(lambda: cluster.pipeline.forwards == 2)
    await settled()
    queue = await cluster.client.queue()
    assert (queue.waiting, queue.running, queue.batch_rows_mean) == (2, 2, 2.0)
    assert queue.eta_s > 0
    assert (queue.replicas, queue.starting, queue.owners) == ({"denoiser": 1}, {"denoiser": 0}, 1)


# -- a feed that breaks


class BrokenCalls(LocalCalls):
    """The first feed breaks at a sign, with an error; the second opens at another."""

    def __init__(self, dispatcher: Dispatcher, error: BaseException) -> None:
        super().__init__(dispatcher)
        self.feeds, self.breaks, self.opens = 0, asyncio.Event(), asyncio.Event()
        self._error = error

    async def stream(self, method: str) -> AsyncIterator[Any]:
        self.feeds += 1
        if self.feeds == 1:
            yield []
            await self.breaks.wait()
            raise self._error
        await self.opens.wait()
        async for jobs in super().stream(method):
            yield jobs


@pytest.mark.parametrize("error", [Unavailable("gone"), RuntimeError("anything else"), asyncio.CancelledError()])
async def test_a_feed_that_breaks_is_opened_again_and_catches_up(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(client_module, "RECONNECT_S", 0.0)
    cluster = Cluster(calls=lambda dispatcher: BrokenCalls(dispatcher, error))
    calls = cluster.client._calls
    job = await cluster.submit()
    watch = states(cluster.client, job)
    assert (await anext(watch)).progress.step == 0
    calls.breaks.set()
    await until(lambda: calls.feeds == 2)
    cluster.pipeline.let_go()
    await until(lambda: cluster.pipeline.left)
    calls.opens.set()
    assert [state.status async for state in watch] == ["succeeded"]


async def test_a_job_that_waits_for_the_disk_holds_up_no_other_when_a_feed_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "RECONNECT_S", 0.0)
    cluster = Cluster(calls=lambda dispatcher: BrokenCalls(dispatcher, Unavailable("gone")))
    calls, job = cluster.client._calls, cluster.dispatcher.job
    stuck, other = [await cluster.submit() for _ in range(2)]
    watches = [states(cluster.client, each) for each in (stuck, other)]
    for watch in watches:
        await anext(watch)
    full, asked = True, []

    async def behind(job_id: str, owner: str | None, link: str = "") -> Job:
        asked.append(job_id)
        if full and job_id == stuck.id:
            await asyncio.sleep(0)
            raise StoreUnavailable("The disk is full.")
        return await job(job_id, owner, link)

    monkeypatch.setattr(cluster.dispatcher, "job", behind)
    calls.opens.set()
    calls.breaks.set()
    await until(lambda: asked.count(stuck.id) > 3)
    cluster.pipeline.let_go()
    assert [state.status async for state in watches[1]][-1] == "succeeded"
    full = False
    assert [state.status async for state in watches[0]][-1] == "succeeded"
    assert calls.feeds == 2


async def test_a_watcher_is_told_the_newest_state_in_whatever_order_they_come() -> None:
    older, newer = (replace(new_job([a_spec()], "ada", 0.0), version=version) for version in (1, 2))
    news: asyncio.Queue[Job | DarkroomError] = asyncio.Queue()
    for word in (older, newer, older):
        news.put_nowait(word)
    assert await client_module._newest(news, 0.0) == newer


async def test_a_feed_ends_after_its_time_and_its_reader_opens_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_module, "FEED_S", 0.0)
    cluster = Cluster()
    async with asyncio.timeout(PATIENCE_S):
        assert len([jobs async for jobs in cluster.dispatcher.feed()]) == 1  # a dead reader's goes at last
    assert cluster.dispatcher._feeds == set()
    monkeypatch.setattr(deployment_module, "FEED_S", 0.01)
    job = await cluster.submit()
    seen = []
    async for state in states(cluster.client, job):
        seen.append(state.version)
        await asyncio.sleep(0.02)
        cluster.pipeline.allow(1)
    assert len(seen) > 3
    assert seen == sorted(set(seen))


async def test_the_feed_is_of_no_request_so_that_one_that_is_cut_does_not_take_it_along(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    of: list[str] = []
    stream = cluster.client._calls.stream
    monkeypatch.setattr(cluster.client._calls, "stream", lambda name: of.append(request.get()) or stream(name))
    request.set("the first watcher's")
    assert (await cluster.ended(await cluster.submit())).status == "succeeded"
    assert of == ["none"]


async def test_a_watch_ends_with_not_found_when_the_job_is_gone_after_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RECONNECT_S", 0.0)
    cluster = Cluster(calls=lambda dispatcher: BrokenCalls(dispatcher, Unavailable("gone")))
    calls = cluster.client._calls
    watch = states(cluster.client, await cluster.submit())
    await anext(watch)
    calls.breaks.set()
    calls._dispatcher = Cluster().dispatcher  # a new one, which knows nothing of the old one's jobs
    calls.opens.set()
    with pytest.raises(NotFound):
        await anext(watch)


@pytest.mark.parametrize("status", ["queued", None])
async def test_lists_are_paged_by_the_order_of_jobs_though_the_clock_is_set_back(status: Any) -> None:
    times = Times()
    cluster = Cluster(clock=SteadyClock(system=times.system, monotonic=times.monotonic), max_waiting=50)
    ids = [(await cluster.submit()).id for _ in range(6)]
    times.ahead_s -= 30.0  # so little is followed at once
    ids += [(await cluster.submit()).id for _ in range(6)]
    whole = [job.id for job in await cluster.client.jobs("ada", status)]
    assert set(ids[2:]) <= set(whole)
    paged: list[str] = []
    while page := await cluster.client.jobs("ada", status, 4, paged[-1] if paged else None):
        paged += [job.id for job in page]
    assert paged == whole


class Times:
    """A system clock that can be set, beside one that cannot."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic()

    def system(self) -> float:
        return time.monotonic() + 1e9 + self.ahead_s
