"""The page in this process over a fake cluster, and a real Chromium before it."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, Page, expect

from benchmarks.chromium import INTERACTIVE, MISSING, find_chromium, running_chromium
from deployments.api.deployment import create_api
from deployments.image_store import ImageStore
from gradio_ingress.app import create_app
from tests.unit.gradio_ingress.fakes import CARD, Cluster, FakePipeline

TIMEOUT_MS = 15_000


@dataclass(frozen=True)
class Site:
    """Where the page is served, and what draws its pictures."""

    url: str
    pipeline: FakePipeline


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    images = ImageStore(tmp_path_factory.mktemp("images"))
    started: Future[tuple[uvicorn.Server, FakePipeline]] = Future()

    async def serve() -> None:
        cluster = Cluster(images)  # its Dispatcher lives on the loop that serves the page
        server = uvicorn.Server(uvicorn.Config(_site(images, cluster), log_level="warning"))
        started.set_result((server, cluster.pipeline))
        await server.serve(sockets=[listener])

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        server, pipeline = started.result(timeout=60)
        yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}", pipeline)
        server.should_exit = True
        server.force_exit = True
        thread.join()


def _site(images: ImageStore, cluster: Cluster) -> FastAPI:
    """The page, and the API that it fetches pictures from."""
    app = FastAPI()

    app.mount("/v1", create_api(cluster.client, images, dict, [CARD.id]))
    page = create_app(cluster.client)
    app.router.lifespan_context = page.router.lifespan_context
    app.mount("/", page)
    return app


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip(MISSING)
    expect.set_options(timeout=TIMEOUT_MS)
    with running_chromium() as browser:
        yield browser


def opened(context: BrowserContext, url: str) -> Page:
    """Open the page in a profile; return when it can generate."""
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.wait_for_selector(INTERACTIVE)
    return page


@pytest.fixture
def profile(chromium: Browser) -> Iterator[Callable[[], BrowserContext]]:
    """Makes fresh profiles, as of several people."""
    made: list[BrowserContext] = []

    def new() -> BrowserContext:
        made.append(chromium.new_context(viewport={"width": 1280, "height": 900}))
        return made[-1]

    yield new
    for context in made:
        context.close()


@pytest.fixture
def pictures_to(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where pictures of the page are put: into the documentation if that is asked for."""
    return Path(request.config.getoption("--pictures-to") or tmp_path)


@pytest.fixture
def page(site: Site, profile: Callable[[], BrowserContext]) -> Iterator[Page]:
    """The page, ready to generate."""
    site.pipeline.go.set()
    site.pipeline.specs.clear()
    yield opened(profile(), site.url)
    site.pipeline.go.set()
