"""Several models behind one Dispatcher, each with its own line, and models that come and go."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.autoscaling import Demand
from deployments.dispatcher import deployment as deployment_module
from deployments.dispatcher import model_queue as model_queue_module
from deployments.dispatcher.arrivals import MEMORY_S
from deployments.dispatcher.client import DispatcherClient
from deployments.dispatcher.deployment import Dispatcher
from deployments.errors import Superseded, UnknownModel
from deployments.jobs import Job
from deployments.schema import GenerationRequest
from models.errors import Unavailable
from tests.fakes import CARD, PATIENCE_S, FakePipeline, LocalCalls, a_dispatcher, settled, until

SDXL = replace(CARD, id="sdxl", digest="e" * 64)


@pytest.fixture(autouse=True)
def _ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_module, "MEET_INTERVAL_S", 0)


def a_request(model: str | None = None, **fields: object) -> GenerationRequest:
    return GenerationRequest(prompt="a circle", seed=7, **({"model": model} if model else {}), **fields)


async def end_of(dispatcher: Dispatcher, job: Job) -> Job:
    async with asyncio.timeout(PATIENCE_S):
        return [state async for state in DispatcherClient(LocalCalls(dispatcher)).watch(job.id)][-1]


def asleep() -> FakePipeline:
    """The stages of a model that is not up."""
    pipeline = FakePipeline(card=SDXL)
    pipeline.is_up = False
    return pipeline


async def test_a_request_is_drawn_by_the_model_it_names_and_by_the_first_where_it_names_none() -> None:
    shapes, sdxl = FakePipeline(), FakePipeline(card=SDXL)
    dispatcher = a_dispatcher(shapes, others={"sdxl": sdxl})
    for model in ("sdxl", None, "shapes"):
        await end_of(dispatcher, await dispatcher.submit(a_request(model), "ada"))
    assert [spec.model for spec in sdxl.specs] == ["sdxl"]
    assert [spec.model for spec in shapes.specs] == ["shapes", "shapes"]
    with pytest.raises(UnknownModel, match='there is no "flux"; served: shapes, sdxl'):
        await dispatcher.submit(a_request("flux"), "ada")


async def test_a_busy_model_holds_up_no_other_models_pictures() -> None:
    shapes, sdxl = FakePipeline(), FakePipeline(card=SDXL)
    shapes.hold()
    dispatcher = a_dispatcher(shapes, others={"sdxl": sdxl})
    stuck = await dispatcher.submit(a_request(num_images=6), "ada")
    assert (await end_of(dispatcher, await dispatcher.submit(a_request("sdxl"), "ada"))).status == "succeeded"
    queue = await dispatcher.queue()
    assert (queue.models["shapes"].waiting, queue.models["shapes"].running) == (4, 2)
    assert (queue.models["sdxl"].waiting, queue.models["sdxl"].running) == (0, 0)
    assert (queue.waiting, queue.running) == (4, 2)
    assert queue.eta_s == pytest.approx(queue.models["shapes"].eta_s, abs=0.1)
    assert queue.models["sdxl"].eta_s == 0
    shapes.let_go()
    assert (await end_of(dispatcher, stuck)).status == "succeeded"


async def test_a_place_is_counted_in_the_line_of_the_jobs_own_model() -> None:
    shapes, sdxl = FakePipeline(), FakePipeline(card=SDXL)
    shapes.hold()
    sdxl.hold()
    dispatcher = a_dispatcher(shapes, others={"sdxl": sdxl}, max_waiting=20)
    await dispatcher.submit(a_request(num_images=8), "bob")
    await dispatcher.submit(a_request("sdxl", num_images=2), "bob")
    job = await dispatcher.submit(a_request("sdxl"), "ada")

    async def placed() -> Job:
        while (found := await dispatcher.job(job.id, "ada")).queue is None:
            await asyncio.sleep(0)
        return found

    async with asyncio.timeout(PATIENCE_S):
        place = (await placed()).queue
    assert place is not None
    assert (place.position, place.size) == (1, 1)


async def test_a_model_that_is_not_up_is_said_to_be_so_while_the_others_serve() -> None:
    dispatcher = a_dispatcher(FakePipeline(), others={"sdxl": asleep()})
    with pytest.raises(Unavailable, match="sdxl is not up"):
        await dispatcher.submit(a_request("sdxl"), "ada")
    assert [card.id for card in await dispatcher.models()] == ["shapes"]
    assert await dispatcher.problem() is None
    assert (await end_of(dispatcher, await dispatcher.submit(a_request(), "ada"))).status == "succeeded"


async def test_without_any_model_the_service_is_not_ready() -> None:
    pipeline = asleep()
    dispatcher = a_dispatcher(pipeline)
    with pytest.raises(Unavailable, match="No model is up yet"):
        await dispatcher.models()
    assert await dispatcher.problem() == "No model is up yet."
    pipeline.is_up = True
    await until(lambda: dispatcher._models["shapes"].card)
    assert await dispatcher.problem() is None


async def test_jobs_of_a_model_that_is_not_up_again_wait_for_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    before = FakePipeline(card=SDXL)
    before.hold()
    first = a_dispatcher(FakePipeline(), others={"sdxl": before}, database_url=url)
    job = await first.submit(a_request("sdxl"), "ada")
    sdxl = asleep()
    second = a_dispatcher(FakePipeline(), others={"sdxl": sdxl}, database_url=url)
    await settled()
    assert (await second.job(job.id, "ada")).status == "queued"
    assert sdxl.started == []
    sdxl.is_up = True
    assert (await end_of(second, job)).status == "succeeded"


async def test_new_weights_under_an_old_name_are_noticed() -> None:
    pipeline = FakePipeline()
    dispatcher = a_dispatcher(pipeline)
    await dispatcher.models()
    pipeline.served = replace(CARD, digest="f" * 64)
    await until(lambda: dispatcher._models["shapes"].card.digest == "f" * 64)


async def test_a_model_that_does_not_answer_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_queue_module, "CARD_TIMEOUT_S", 0.01)
    stuck = FakePipeline(card=SDXL)
    monkeypatch.setattr(stuck, "meet", lambda demand: asyncio.Event().wait())
    dispatcher = a_dispatcher(FakePipeline(), others={"sdxl": stuck})
    assert [card.id for card in await dispatcher.models()] == ["shapes"]


async def test_a_model_is_told_what_there_is_to_do_for_it() -> None:
    pipeline = FakePipeline()
    dispatcher = a_dispatcher(pipeline)
    await end_of(dispatcher, await dispatcher.submit(a_request(), "ada"))  # so that a step has been measured
    pipeline.hold()
    await dispatcher.submit(a_request(num_images=5), "ada")
    await until(lambda: pipeline.demand.pictures == 5 and pipeline.demand.denoise_s > 0)
    assert pipeline.demand.pictures_per_s == pytest.approx(6 / MEMORY_S, rel=0.05)
    assert 0 < pipeline.demand.denoise_load < pipeline.demand.denoise_s
    pipeline.let_go()
    await until(lambda: pipeline.demand.pictures == 0)
    assert pipeline.demand.denoise_s == 0


async def test_a_dispatcher_that_was_taken_over_from_tells_models_nothing_any_more(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    before, after = FakePipeline(), FakePipeline()
    first = a_dispatcher(before, database_url=url)
    await first.models()
    await a_dispatcher(after, database_url=url).models()
    with pytest.raises(Superseded):
        await first.submit(a_request(), "ada")
    await settled()
    before.demand = told = Demand(pictures=7)
    await settled()
    assert before.demand is told
