"""The HTTP API: stateless, so as many replicas as wanted. Routes are relative to the application's prefix, /v1."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from deployments.access import AccessPolicy
from deployments.api import huggingface, jobs, openai, status
from deployments.api.auth import AuthMiddleware
from deployments.api.docs import add_docs
from deployments.api.errors import SHAPES, add_error_handlers
from deployments.api.head import HeadAsGet
from deployments.api.headers import EXPOSED_HEADERS
from deployments.api.limits import BodyLimit
from deployments.config import Sizes
from deployments.dispatcher.client import DispatcherClient, ServeCalls
from deployments.image_store import ImageStore
from deployments.serve.replicas import ApplicationState, applications


class Api(FastAPI):
    """FastAPI, but that it does not claim a 422 for what the handlers of `errors` make a 400, nor that there must be a
    key where keys may be off."""

    def openapi(self) -> dict[str, Any]:
        """Return the description."""
        if self.openapi_schema is None:
            described = super().openapi()
            for operation in (each for path in described["paths"].values() for each in path.values()):
                operation["security"] = [{}, *operation.get("security", [])]
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
            schemas = described["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for shape in SHAPES:
                schemas[shape.__name__] = shape.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas[shape.__name__].pop("$defs", None)
        return super().openapi()


def create_api(
    client: DispatcherClient,
    images: ImageStore,
    applications: Callable[[], Mapping[str, ApplicationState]],
    models: Sequence[str],
    access: AccessPolicy,
    app_name: str = "generation",
    public_url: str | None = None,
    sizes: Sizes = "exact",
) -> FastAPI:
    """Return the API over a client, a store of images, and Serve's applications, of which `models` serve a model each;
    `app_name` is its own. Absolute addresses begin with `public_url`, if given, else as the request's did. `sizes` is
    as in `AppConfig`."""
    app = Api(  # whose dependency is for OpenAPI alone: `AuthMiddleware` checks keys
        title="Darkroom",
        summary="Text to image: pictures by prompt, a queue that can be seen.",
        version="1",
        servers=[{"url": "/v1"}],
        root_path_in_servers=False,
        dependencies=[Security(HTTPBearer(auto_error=False, description="With keys on."))],
        docs_url=None,  # FastAPI's own page loads its files from another host
        openapi_url="/openapi.json",
        redoc_url=None,
    )
    add_error_handlers(app, client, {"/hf/": huggingface.DIALECT, "/images/": openai.DIALECT})
    add_docs(app)
    app.add_middleware(BodyLimit)
    # It answers before anything is read, inside of what every answer needs.
    app.add_middleware(AuthMiddleware, access=access)
    app.add_middleware(HeadAsGet)
    if access.cors_origins:
        app.add_middleware(  # outside of `AuthMiddleware`: a browser asks beforehand, without a key
            CORSMiddleware,
            allow_origins=access.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
            allow_private_network=True,  # browsers ask for it where a public page calls a server of a private address
        )
    app.include_router(openai.router(client, images, public_url, sizes))
    app.include_router(jobs.router(client, images))
    app.include_router(huggingface.router(client, images))
    app.include_router(status.router(client, applications, models, app_name))
    return app


@serve.deployment
@serve.ingress()
class ApiIngress:
    """One replica of the API."""

    def __init__(
        self,
        dispatcher: DeploymentHandle,
        models: Sequence[str],
        images: str,
        keys: Path | None = None,
        allowed_hosts: Collection[str] = (),
        cors_origins: Collection[str] = (),
        public_url: str | None = None,
        sizes: Sizes = "exact",
    ) -> None:
        self._models = models
        self._sizes: Sizes = sizes
        self._client = DispatcherClient(ServeCalls(lambda: dispatcher))
        self._images = ImageStore(images)
        self._access = AccessPolicy.of_replica(keys, allowed_hosts, cors_origins)
        self._public_url = public_url

    async def check_health(self) -> None:
        """Answer Serve on the event loop of the requests: a replica whose loop hangs is replaced."""

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_api(
            self._client,
            self._images,
            applications,
            self._models,
            self._access,
            serve.get_replica_context().app_name,
            self._public_url,
            self._sizes,
        )
