"""The HTTP API: stateless, so as many replicas as wanted. Routes are relative to the application's prefix, /v1."""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Security
from fastapi.security import HTTPBearer
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from deployments.access import AccessPolicy
from deployments.api import huggingface, inputs, jobs, status
from deployments.api.auth import AuthMiddleware
from deployments.api.docs import add_docs
from deployments.api.errors import SHAPES, add_error_handlers
from deployments.api.head import HeadAsGet
from deployments.api.headers import EXPOSED_HEADERS
from deployments.api.limits import FORM_BYTES, MAX_BODY, BodyLimit
from deployments.api.openai import edits, generations
from deployments.api.openai.answers import Answers
from deployments.api.openai.fields import DIALECT, EDITS
from deployments.api.query import check_query
from deployments.config import InputsConfig, Sizes
from deployments.dispatcher.client import DispatcherClient, ServeCalls
from deployments.image_store import ImageStore
from deployments.input_intake import InputIntake
from deployments.input_store import InputStore
from deployments.serve.replicas import ApplicationState, applications

DIALECTS = {  # of the paths that begin so
    "/hf/": huggingface.DIALECT,
    "/images/generations": DIALECT,
    "/images/": EDITS,
}


def _body_limits(max_image: int) -> dict[str, int]:
    """Return how many bytes a body may have by its path (see `BodyLimit`), by those of the largest image."""
    return {
        "/inputs": max_image + FORM_BYTES,
        "/images/variations": max_image + FORM_BYTES,
        "/images/edits": 2 * max_image + FORM_BYTES,
        "/hf/": MAX_BODY + ceil(max_image / 3) * 4,  # in base64
    }


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
    intake: InputIntake,
    applications: Callable[[], Mapping[str, ApplicationState]],
    models: Sequence[str],
    access: AccessPolicy,
    app_name: str = "generation",
    public_url: str | None = None,
    sizes: Sizes = "exact",
) -> FastAPI:
    """Return the API over a client, a store of images, an intake of inputs, and Serve's applications.

    `models` serve a model each; `app_name` is the API's own application. Absolute addresses begin with `public_url`, if
    given, else as the request's did. `sizes` is as in `AppConfig`.
    """
    app = Api(
        title="Darkroom",
        summary="Text to image: pictures by prompt, a queue that can be seen.",
        version="1",
        servers=[{"url": "/v1"}],
        root_path_in_servers=False,
        dependencies=[
            Security(HTTPBearer(auto_error=False, description="With keys on.")),  # for OpenAPI: `AuthMiddleware` checks
            Depends(check_query),
        ],
        docs_url=None,  # FastAPI's own page loads its files from another host
        openapi_url="/openapi.json",
        redoc_url=None,
    )
    add_error_handlers(app, client, DIALECTS)
    add_docs(app)
    app.add_middleware(BodyLimit, limits=_body_limits(intake.config.max_input_bytes))
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
    answers = Answers(client, images, public_url)
    app.include_router(generations.router(client, answers, sizes))
    app.include_router(edits.router(client, intake, answers, sizes))
    app.include_router(jobs.router(client, images))
    app.include_router(inputs.router(client, intake))
    app.include_router(huggingface.router(client, images, intake))
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
        inputs: InputsConfig,
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
        self._intake = InputIntake(self._client, InputStore(images), inputs)
        self._access = AccessPolicy.of_replica(keys, allowed_hosts, cors_origins)
        self._public_url = public_url

    async def check_health(self) -> None:
        """Answer Serve on the event loop of the requests: a replica whose loop hangs is replaced."""

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_api(
            self._client,
            self._images,
            self._intake,
            applications,
            self._models,
            self._access,
            serve.get_replica_context().app_name,
            self._public_url,
            self._sizes,
        )
