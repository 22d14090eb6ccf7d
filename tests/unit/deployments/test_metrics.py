"""What the Dispatcher records while it works, seen where it is handed to Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.util.metrics import Metric

from deployments.config import LEAST_COUNTED_BYTES
from deployments.dispatcher import deployment, sweeper
from deployments.errors import ReplicaLost, UnknownModel
from deployments.input_store import InputStore, NewInput, file_name, id_of
from deployments.jobs import Job
from deployments.schema import GenerationRequest
from models.errors import NonFinite
from tests.fakes import STEPS, FakePipeline, Jumping, a_dispatcher, settled, until

REQUEST = GenerationRequest(prompt="a circle", seed=7)
Records = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[Records]:
    """Every recording: the metric's name without `darkroom_`, the value, and the tags."""
    found: Records = []

    def record(metric: Metric, value: float, tags: dict[str, str] | None = None) -> None:
        found.append((metric._name.removeprefix("darkroom_"), value, tags or {}))

    monkeypatch.setattr(Metric, "_record", record)
    return found


def of(records: Records, *names: str) -> Records:
    return [record for record in records if record[0] in names]


async def drawn(pipeline: FakePipeline, **changes: object) -> Job:
    """A job from its acceptance to its end."""
    dispatcher = a_dispatcher(pipeline)
    job = await dispatcher.submit(REQUEST.model_copy(update=changes), "ada")
    await until(lambda: dispatcher._queue.job(job.id).ended)
    await settled()
    return dispatcher._queue.job(job.id)


async def test_a_job_that_succeeds_is_counted_once_with_its_wait_its_time_and_its_first_preview(
    records: Records,
) -> None:
    pipeline = FakePipeline()
    pipeline.preview_at = (3, 6)
    job = await drawn(pipeline, num_images=2)
    assert job.status == "succeeded"
    assert of(records, "jobs") == [("jobs", 1, {"model": "shapes", "status": "succeeded", "code": ""})]
    for name in ("queue_wait_seconds", "job_seconds", "first_preview_seconds"):
        [(_, seconds, tags)] = of(records, name)
        assert 0 <= seconds < 15
        assert tags == {"model": "shapes"}
    assert of(records, "wasted_steps", "retries", "rejects") == []


async def test_inputs_are_counted_as_they_expire_and_their_bytes_while_they_are_kept(
    records: Records, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sweeper, "SWEEP_INTERVAL_S", 0.0)
    monkeypatch.setattr(deployment, "CONFIRM_INTERVAL_S", 0.0)
    jumping, files = Jumping(), InputStore(tmp_path)
    dispatcher = a_dispatcher(FakePipeline(), images=tmp_path, clock=jumping.clock)
    for content in (b"one", b"three"):
        files.put(file_name("ada", id_of(content)), content)
        new = NewInput(id=id_of(content), width=4, height=3, bytes=len(content))
        await dispatcher.add_input("ada", new)
    await until(lambda: ("input_bytes", 2 * LEAST_COUNTED_BYTES, {}) in records)  # as the quotas count them
    assert of(records, "inputs_expired") == []
    jumping.later(86401)
    await until(lambda: of(records, "inputs_expired"))
    assert of(records, "inputs_expired") == [("inputs_expired", 2, {})]
    await until(lambda: of(records, "input_bytes")[-1][1] == 0)


async def test_a_lost_replica_is_a_retry_and_its_steps_are_wasted(records: Records) -> None:
    pipeline = FakePipeline()
    pipeline.problems = [ReplicaLost()]
    assert (await drawn(pipeline)).status == "succeeded"
    assert of(records, "wasted_steps", "retries") == [
        ("retries", 1, {"model": "shapes"}),
        ("wasted_steps", 1, {"model": "shapes", "reason": "lost"}),
    ]


async def test_a_job_that_fails_is_counted_with_its_error_and_the_steps_that_it_took(records: Records) -> None:
    pipeline = FakePipeline()
    pipeline.problems = [NonFinite()]
    assert (await drawn(pipeline)).status == "failed"
    assert of(records, "jobs") == [("jobs", 1, {"model": "shapes", "status": "failed", "code": "non_finite"})]
    assert of(records, "wasted_steps") == [("wasted_steps", 1, {"model": "shapes", "reason": "failed"})]
    assert of(records, "job_seconds") == []


async def test_the_steps_of_a_cancelled_picture_are_wasted(records: Records) -> None:
    pipeline = FakePipeline()
    pipeline.hold()
    dispatcher = a_dispatcher(pipeline)
    job = await dispatcher.submit(REQUEST, "ada")
    pipeline.allow(STEPS - 2)
    await until(lambda: pipeline.forwards == STEPS - 2)
    await dispatcher.cancel(job.id, "ada")
    await until(lambda: pipeline.left)
    await settled()
    assert of(records, "wasted_steps") == [("wasted_steps", STEPS - 2, {"model": "shapes", "reason": "cancelled"})]


async def test_a_refused_request_is_counted_by_what_was_wrong_with_it(records: Records) -> None:
    dispatcher = a_dispatcher(FakePipeline())
    with pytest.raises(UnknownModel):
        await dispatcher.submit(REQUEST.model_copy(update={"model": "magic"}), "ada")
    assert of(records, "rejects", "jobs") == [("rejects", 1, {"code": "model_not_found"})]
