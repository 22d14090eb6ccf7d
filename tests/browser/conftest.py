"""The page in this process over a fake cluster, and a real Chromium before it."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Page

from deployments.access import AccessPolicy
from deployments.api.deployment import create_api
from deployments.image_store import ImageStore
from deployments.jobs import Job
from gradio_ingress.app import create_app
from models.model_card import ModelCard
from tests.chromium import Tab, chromium, profile, shared_tab  # noqa: F401
from tests.fakes import an_intake
from tests.unit.gradio_ingress.fakes import CARD, Cluster, FakePipeline


@dataclass(frozen=True)
class Site:
    """Where the page is served, and the cluster behind it."""

    url: str
    cluster: Cluster
    loop: asyncio.AbstractEventLoop  # of the cluster

    @property
    def pipeline(self) -> FakePipeline:
        """What generates the images."""
        return self.cluster.pipeline

    def jobs(self, owner: str) -> list[Job]:
        """An owner's jobs, newest first."""
        return asyncio.run_coroutine_threadsafe(self.cluster.client.jobs(owner), self.loop).result(timeout=10)


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page over a model, which a test may choose: its card is the fixture's parameter."""
    card: ModelCard = getattr(request, "param", CARD)
    images = ImageStore(tmp_path_factory.mktemp("images"))
    started: Future[tuple[uvicorn.Server, Cluster, asyncio.AbstractEventLoop]] = Future()

    async def serve() -> None:
        cluster = Cluster(images, card)  # its Dispatcher lives on the loop that serves the page
        server = uvicorn.Server(uvicorn.Config(_site(images, cluster, card), log_level="warning"))
        started.set_result((server, cluster, asyncio.get_running_loop()))
        await server.serve(sockets=[listener])

    # With its protocol: asyncio sets TCP_NODELAY on no other, and a response of two packets would take 40 ms more.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who comes before the server does waits, and is not refused
        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        server, cluster, loop = started.result(timeout=60)
        yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}", cluster, loop)
        server.should_exit = True
        server.force_exit = True
        thread.join()


def _site(images: ImageStore, cluster: Cluster, card: ModelCard) -> FastAPI:
    """The page, and the API that it fetches pictures from."""
    app = FastAPI()

    intake = an_intake(cluster.client, cluster.images)
    app.mount("/v1", create_api(cluster.client, images, intake, dict, [card.id], AccessPolicy()))
    page = create_app(cluster.client, AccessPolicy())
    app.router.lifespan_context = page.router.lifespan_context
    app.mount("/", page)
    return app


@pytest.fixture
def page(site: Site, shared_tab: Tab) -> Iterator[Page]:  # noqa: F811
    """The page as somebody new has it, ready to generate."""
    site.pipeline.go.set()
    site.pipeline.specs.clear()
    yield shared_tab.anew(site.url)
    site.pipeline.go.set()
