"""The endpoint for Gradio's own clients."""

import asyncio
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import gradio as gr
import pytest
from gradio.context import LocalContext
from gradio.data_classes import CancelBody

from deployments.image_store import ImageStore
from deployments.jobs import QueuePlace
from deployments.schema import GenerationRequest
from gradio_ingress import client_api, gradio_queue
from gradio_ingress.client_api import ClientApi
from models.errors import Unavailable
from tests.unit.gradio_ingress.fakes import Cluster

SCOPE = {"type": "http", "scheme": "http", "headers": [(b"host", b"darkroom:8000")]}
CALLER: Any = SimpleNamespace(
    state=SimpleNamespace(owner=None), session_hash="client", request=SimpleNamespace(scope=SCOPE)
)


@pytest.fixture
async def cluster(tmp_path: Path) -> Cluster:
    return Cluster(ImageStore(tmp_path))


def endpoint(cluster: Cluster, public_url: str | None = None) -> Any:
    return ClientApi(cluster.client, gr.Blocks(), public_url).endpoint()


def given(**values: Any) -> list[Any]:
    return [values.get(name) for name in GenerationRequest.model_fields]


async def test_its_arguments_are_the_schemas_fields(cluster: Cluster) -> None:
    hints = get_type_hints(endpoint(cluster))
    assert list(hints) == ["request", *GenerationRequest.model_fields, "return"]
    assert hints["prompt"] is str
    assert hints["width"] == int | None


async def test_it_returns_files_seed_and_job(cluster: Cluster) -> None:
    files, seed, about = await endpoint(cluster)(CALLER, *given(prompt="a star", seed=7, num_images=2))
    job = await cluster.client.job(about["id"])
    assert [file.path for file in files] == [f"{job.link}/{image.name}" for image in job.images]
    assert [file.url for file in files] == [f"http://darkroom:8000{image.url}?link={job.link}" for image in job.images]
    assert seed == 7
    assert job.owner == f"tab:{sha256(b'client').hexdigest()[:32]}"


async def test_addresses_begin_with_the_operators_public_url_if_there_is_one(cluster: Cluster) -> None:
    files, *_ = await endpoint(cluster, "https://images.example.org")(CALLER, *given(prompt="a star"))
    assert files[0].url.startswith("https://images.example.org/v1/files/job_")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 63}, "width must be 64 for shapes, got 63"),
        ({"clip_skip": 99}, "clip_skip must be from 0 to 12 for shapes, got 99"),
        ({"sampler": "magic"}, "sampler must be one of ddim, euler for shapes, got magic"),
        ({"num_images": 11}, "must be 10 or less"),
    ],
)
async def test_what_is_wrong_is_said(cluster: Cluster, values: dict[str, Any], words: str) -> None:
    with pytest.raises(gr.Error, match=words):
        await endpoint(cluster)(CALLER, *given(prompt="a star", **values))


async def cancelled(api: ClientApi, session: str = "client") -> int:
    body = CancelBody(event_id="event", session_hash=session, fn_index=0)
    return (await api.cancel(body, CALLER)).status_code


@pytest.fixture
def waiting(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientApi]:
    """The endpoint, and one call of it that Gradio has not started yet."""
    monkeypatch.setattr(client_api, "START_TIMEOUT_S", 0.01)
    blocks: Any = SimpleNamespace(_queue=SimpleNamespace(event_ids_to_events={"event": None}))
    token = LocalContext.event_id.set("event")
    yield ClientApi(cluster.client, blocks)
    LocalContext.event_id.reset(token)


async def test_a_call_that_is_cancelled_before_it_starts_queues_nothing(waiting: ClientApi, cluster: Cluster) -> None:
    assert await cancelled(waiting) == 200
    with pytest.raises(gr.Error, match="cancelled"):
        await waiting.endpoint()(CALLER, *given(prompt="a star"))
    assert not cluster.pipeline.specs
    await waiting.endpoint()(CALLER, *given(prompt="a star"))


async def test_nobody_else_cancels_a_call_before_it_starts(waiting: ClientApi, cluster: Cluster) -> None:
    await cancelled(waiting, "another")
    await waiting.endpoint()(CALLER, *given(prompt="a star"))
    assert len(cluster.pipeline.specs) == 1


async def test_few_cancelled_calls_are_remembered(waiting: ClientApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_api, "MAX_CANCELLED", 2)
    for session in ("client", "another", "a third"):
        await cancelled(waiting, session)
    assert len(waiting._cancelled) == 2
    await waiting.endpoint()(CALLER, *given(prompt="a star"))


async def test_a_call_whose_job_was_refused_is_cancelled_without_an_error(
    waiting: ClientApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = asyncio.Event()

    async def refuse(*_: Any) -> None:
        await go.wait()
        raise Unavailable("The service is still starting.")

    monkeypatch.setattr(cluster.client, "submit", refuse)
    call = asyncio.create_task(waiting.endpoint()(CALLER, *given(prompt="a star")))
    await asyncio.sleep(0)
    cancelling = asyncio.create_task(cancelled(waiting))
    await asyncio.sleep(0)
    go.set()
    assert await cancelling == 200
    with pytest.raises(gr.Error, match="still starting"):
        await call


async def test_events_that_gradio_does_not_show_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    blocks: Any = SimpleNamespace()
    assert gradio_queue.has_event(blocks, "event") is False
    assert "Gradio's events cannot be found" in caplog.text


async def test_a_position_that_gradio_does_not_accept_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gradio_queue.send_position(QueuePlace(position=1, size=1, eta_s=1))
    assert "Gradio does not accept a queue position" in caplog.text
