"""The HTTP API: stateless, so as many replicas as wanted. Routes are relative to the application's prefix, /v1."""

import asyncio
from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.api import openai
from deployments.api.errors import add_error_handlers, error_body
from deployments.api.limits import BodyLimit
from deployments.dispatcher.client import DispatcherClient, ServeCalls
from deployments.image_store import ImageStore
from deployments.replicas import STAGES, ApplicationState, applications
from deployments.schema import GenerationRequest, Job
from models.errors import BY_CODE, DarkroomError, JobEnded, NotFound
from models.spec import ModelCard

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # as FastAPI's own streams have them
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key and body give the same job again, for as long as it is kept.",
    ),
]
READY_WITHIN_S = 3.0  # the Dispatcher answers, or is not ready
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def owner_of(request: Request) -> str:
    """Return whose jobs a caller may see: without keys, those from the same address."""
    return f"peer:{request.client.host if request.client else 'unknown'}"


def job_body(job: Job) -> dict[str, Any]:
    """Return what the owner of a job gets to see of it, everywhere the same."""
    body = asdict(job)
    del body["owner"]
    return body


def create_api(
    client: DispatcherClient,
    images: ImageStore,
    applications: Callable[[], Mapping[str, ApplicationState]],
    app_name: str = "generation",
) -> FastAPI:
    """Return the API over a client, a store of pictures, and what Serve says of its applications."""
    app = FastAPI(
        title="Darkroom",
        summary="Text to image: pictures by prompt, a queue that can be seen.",
        docs_url="/docs",
        openapi_url="/openapi.json",
        redoc_url=None,
    )
    add_error_handlers(app)
    app.add_middleware(BodyLimit)
    _add_images(app, client, images)
    _add_jobs(app, client)
    _add_files(app, images)
    _add_service(app, client)
    _add_ready(app, client, applications, app_name)
    return app


def _add_images(app: FastAPI, client: DispatcherClient, images: ImageStore) -> None:
    @app.post("/images/generations", tags=["images"], summary="Draw pictures and wait for them")
    async def generate(
        body: openai.ImagesBody,  # type: ignore[valid-type]
        request: Request,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        job = await client.submit(openai.to_request(body), owner_of(request), idempotency_key)
        if body.stream:
            stream = _openai_events(client, images, job, body.partial_images)
            return EventSourceResponse(stream, headers=STREAM_HEADERS)
        job = await _ended(client, job)
        pictures = None
        if body.response_format == "b64_json":
            pictures = await asyncio.gather(*(asyncio.to_thread(images.get, image.name) for image in job.images))
        return JSONResponse(openai.to_body(job, pictures))


async def _ended(client: DispatcherClient, job: Job) -> Job:
    """Wait for a job's pictures.

    Raises:
        DarkroomError: the one that ended the job.
    """
    async for state in client.watch(job.id):
        job = state
    raise_if_unsuccessful(job)
    return job


def raise_if_unsuccessful(job: Job) -> None:
    """Raise what a job failed with."""
    if job.error is not None:
        raise BY_CODE.get(job.error.code, DarkroomError)(job.error.message)
    if job.status == "cancelled":
        raise JobEnded("The job was cancelled.")


async def _openai_events(
    client: DispatcherClient, images: ImageStore, job: Job, partial_images: int
) -> AsyncIterable[bytes]:
    """Yield OpenAI's events: no type of our own, as its clients would take it for a picture."""
    shown, sent = "", 0
    try:
        async for state in client.watch(job.id):
            job = state
            preview = job.progress.previews.get(0, "") if job.progress else ""
            if preview and preview != shown and sent < partial_images:
                yield sse_bytes(openai.partial_event(job, sent))
                shown, sent = preview, sent + 1
        raise_if_unsuccessful(job)
        yield sse_bytes(openai.completed_event(job, await asyncio.to_thread(images.get, job.images[0].name)))
    except DarkroomError as error:
        yield sse_bytes(error_body(error))


def sse_bytes(event: dict[str, Any]) -> bytes:
    """Encode an event whose type, if it has one, is its name."""
    data = JSONResponse(event).body
    name = f"event: {event['type']}\n".encode() if "type" in event else b""
    return name + b"data: " + bytes(data) + b"\n\n"


def _add_jobs(app: FastAPI, client: DispatcherClient) -> None:
    @app.post("/jobs", status_code=202, tags=["jobs"], summary="Queue pictures")
    async def submit(
        body: GenerationRequest, request: Request, response: Response, idempotency_key: IdempotencyKey = None
    ) -> dict[str, Any]:
        job = await client.submit(body, owner_of(request), idempotency_key)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return job_body(job)

    @app.get("/jobs", tags=["jobs"], summary="Your jobs, newest first")
    async def mine(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [job_body(job) for job in await client.jobs(owner_of(request))]}

    @app.get("/jobs/{job_id}", tags=["jobs"], summary="One job as it is now")
    async def read(job_id: str, request: Request) -> dict[str, Any]:
        return job_body(await client.job(job_id, owner_of(request)))

    async def own(job_id: str, request: Request) -> Job:
        """Find the caller's job before the stream begins: afterwards it is too late for a 404."""
        return await client.job(job_id, owner_of(request))

    @app.get(
        "/jobs/{job_id}/watch",
        tags=["jobs"],
        summary="A job's newest state, each time it changes, until it has ended",
        response_class=EventSourceResponse,
    )
    async def watch(job: Annotated[Job, Depends(own)]) -> AsyncIterable[ServerSentEvent]:
        with suppress(NotFound):  # gone meanwhile: the stream just ends, and the next one is a 404
            async for state in client.watch(job.id):
                yield ServerSentEvent(event="job", data=job_body(state))

    @app.post("/jobs/{job_id}/cancel", tags=["jobs"], summary="End a job")
    @app.delete("/jobs/{job_id}", tags=["jobs"], summary="End a job")
    async def cancel(job_id: str, request: Request) -> dict[str, Any]:
        return job_body(await client.cancel(job_id, owner_of(request)))


def _add_files(app: FastAPI, images: ImageStore) -> None:
    @app.get("/files/{name}", tags=["images"], summary="A finished picture", response_class=Response)
    async def file(name: str, request: Request) -> Response:
        headers = {"ETag": f'"{name}"', "Cache-Control": "private, max-age=31536000, immutable"}
        content = await asyncio.to_thread(images.get, name)
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)


def _add_service(app: FastAPI, client: DispatcherClient) -> None:
    @app.get("/models", tags=["service"], summary="The models served, and what each allows")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_body(card) for card in await client.models()]}

    @app.get("/models/{model_id:path}", tags=["service"], summary="One model")
    async def model(model_id: str) -> dict[str, Any]:
        for card in await client.models():
            if card.id == model_id:
                return model_body(card)
        raise NotFound(f"There is no model {model_id[:200]}.", "model")

    @app.get("/queue", tags=["service"], summary="The whole queue at a glance")
    async def queue() -> dict[str, Any]:
        return asdict(await client.queue())

    @app.get("/health", tags=["service"], summary="Whether the API itself is alive")
    async def health() -> dict[str, str]:
        return {"status": "ok"}


def _add_ready(
    app: FastAPI, client: DispatcherClient, applications: Callable[[], Mapping[str, ApplicationState]], app_name: str
) -> None:
    @app.get("/ready", tags=["service"], summary="200 when every stage can take work, else 503")
    async def ready() -> JSONResponse:
        states = await asyncio.to_thread(applications)
        own = states[app_name].deployments if app_name in states else {}
        missing = [name for name in ("Dispatcher", *STAGES) if name not in own or not own[name].ready]
        problem = None if "Dispatcher" in missing else await _problem(client)
        shown = {name: asdict(state) for name, state in states.items()}
        is_ready = not missing and problem is None
        body = {"ready": is_ready, "missing": missing, "problem": problem, "applications": shown}
        return JSONResponse(body, 200 if is_ready else 503)


async def _problem(client: DispatcherClient) -> str | None:
    """What keeps the Dispatcher from accepting jobs, if anything does."""
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            return await client.problem()
    except (TimeoutError, DarkroomError):
        return "The Dispatcher does not answer."


def model_body(card: ModelCard) -> dict[str, Any]:
    """Return a model as OpenAI lists it, with what it allows and prefers."""
    capabilities = asdict(card)
    for private in ("id", "examples"):
        del capabilities[private]
    return {"id": card.id, "object": "model", "created": 0, "owned_by": "darkroom", "capabilities": capabilities}


@serve.deployment
@serve.ingress()
class ApiIngress:
    """One replica of the API."""

    def __init__(self, dispatcher: DeploymentHandle, images: Path) -> None:
        self._client = DispatcherClient(ServeCalls(lambda: dispatcher))
        self._images = ImageStore(images)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        app_name = serve.get_replica_context().app_name
        return create_api(self._client, self._images, applications, app_name)
