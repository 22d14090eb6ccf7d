"""The application `ui`: the page, in an application of its own, so that it can change without unloading a model."""

from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from ray import serve
from ray.serve import Application
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp

from deployments.access import AccessPolicy
from deployments.config import UiConfig
from deployments.dispatcher.client import DispatcherClient, ServeCalls
from deployments.keys import read_keys
from gradio_ingress.page import Page
from gradio_ingress.page_auth import PageAuthMiddleware
from gradio_ingress.route_allowlist import RouteAllowlist
from gradio_ingress.stream_keepalive import keep_streams_open
from gradio_ingress.theme import theme
from gradio_ingress.uploads import MAX_UPLOAD, UploadRoom, require_uploads, use_own_folder

FOLDER = Path(__file__).parent
PICTURE = "/gradio_api/file={link}/job_{name}"
CANCEL = "/gradio_api/cancel"
SCRIPTS = ("event_stream.js", "page.js", "image_input.js", "mask_painter.js")
EVENTS = 1000  # that Gradio runs at once, no thread each: a page takes one while its jobs go on
SESSIONS = 500  # that Gradio keeps in memory, 0.2 MB each, also when their page is closed; ours hold nothing there


def build(config: UiConfig) -> Application:
    """Return the application. Raises UnusableKeys where the file of keys cannot be used."""
    if config.keys_path is not None:
        read_keys(config.keys_path)
    return GradioIngress.bind(config.generation_app, config.keys_path, config.allowed_hosts, config.public_url)


def create_app(client: DispatcherClient, access: AccessPolicy, public_url: str | None = None) -> FastAPI:
    """Return the page at "/", closed to what a page of pictures does not need: other origins, files, MCP."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(CORSMiddleware, allow_origins=[])  # without our own, Gradio lets any origin in
    app.add_middleware(UploadRoom)
    app.add_middleware(PageAuthMiddleware, access=access)
    app.add_middleware(RouteAllowlist)
    app.get(PICTURE)(_picture)
    page = Page(client, public_url)
    app.post(CANCEL, response_model=None)(page.client_api.cancel)  # in place of Gradio's own
    blocks = page.blocks
    blocks.max_threads = EVENTS  # before queue(), as mounting cannot set it
    blocks.state_session_capacity = SESSIONS
    blocks.queue(api_open=False, default_concurrency_limit=None)
    keep_streams_open(blocks)
    require_uploads(blocks)
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=theme(),
        css_paths=FOLDER / "style.css",
        head="".join(f"<script>{(FOLDER / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS),
        footer_links=[],
        allowed_paths=[],
        max_file_size=MAX_UPLOAD,
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )


def _picture(link: str, name: str) -> RedirectResponse:
    """Send Gradio's own clients, which look for every file here, to where pictures are."""
    return RedirectResponse(f"/v1/files/job_{quote(name)}?link={quote(link)}")


@serve.deployment
@serve.ingress()
class GradioIngress:
    """The page's one replica: Gradio keeps its queue and sessions in the memory of a process."""

    def __init__(
        self,
        generation_app: str,
        keys: Path | None = None,
        allowed_hosts: Collection[str] = (),
        public_url: str | None = None,
    ) -> None:
        self._client = DispatcherClient(ServeCalls.to_app(generation_app))
        self._access = AccessPolicy.of_replica(keys, allowed_hosts)
        self._public_url = public_url
        use_own_folder()

    async def check_health(self) -> None:
        """Answer Serve on the event loop of the requests: a replica whose loop hangs is replaced."""

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._client, self._access, self._public_url)
