"""The endpoint for Gradio's own clients."""

from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import gradio as gr
import pytest

from deployments.image_store import ImageStore
from deployments.schema import GenerationRequest, QueuePlace
from gradio_ingress import gradio_queue
from gradio_ingress.client_api import ClientApi
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


@pytest.mark.parametrize(("values", "words"), [({"width": 63}, "width"), ({"num_images": 11}, "must be 10 or less")])
async def test_what_is_wrong_is_said(cluster: Cluster, values: dict[str, Any], words: str) -> None:
    with pytest.raises(gr.Error, match=words):
        await endpoint(cluster)(CALLER, *given(prompt="a star", **values))


async def test_a_position_that_gradio_does_not_accept_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gradio_queue.send_position(QueuePlace(position=1, size=1, eta_s=1))
    assert "Gradio does not accept a queue position" in caplog.text
