"""Jobs and files: submit, look, watch, end, fetch."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from math import ceil
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from deployments.api.auth import owner_of
from deployments.api.errors import documented
from deployments.api.event_stream import encode_event, event_stream
from deployments.api.examples import A_FILE, AN_ID, DONE, JOBS, QUEUED, answer
from deployments.api.headers import IdempotencyKey, Prefer, allowance_headers, kept_forever, wait_s
from deployments.api.json_body import Utf8Route
from deployments.dispatcher.client import DispatcherClient
from deployments.errors import BY_CODE, Gone, JobEnded, NotFound
from deployments.image_store import ImageStore
from deployments.jobs import Job, Status, job_body
from deployments.schema import GenerationRequest
from models.errors import DarkroomError, Unavailable

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
JobId = Annotated[str, Path(description="As it was given when the job was accepted.", examples=[AN_ID])]
Link = Annotated[str, Query(max_length=100, description="The read-only secret of a link that somebody shared.")]
LastEventId = Annotated[str | None, Header(description="The `id` of the last event that was seen.", examples=["9"])]
FileName = Annotated[str, Path(description="The last part of `images[].url`.", examples=[A_FILE])]


EVENTS = {  # of a watch
    "itemSchema": {
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "The job's `version`."},
            "event": {"enum": ["job"]},
            "data": {"type": "string", "contentMediaType": "application/json", "description": "The job."},
        },
        "required": ["id", "event", "data"],
    }
}


class JobList(BaseModel):
    """Jobs, newest first. While `has_more`, `after=<last_id>` gives the next ones."""

    object: str = "list"
    data: list[Job]
    has_more: bool
    last_id: str | None


async def ended(client: DispatcherClient, job: Job) -> Job:
    """Wait for a job's pictures.

    Raises:
        DarkroomError: the one that ended the job.
    """
    async for state in client.watch(job.id):
        job = state
    raise_if_unsuccessful(job)
    return job


def raise_if_unsuccessful(job: Job) -> None:
    """Raise what a job failed with, with the field's name as `GenerationRequest` has it."""
    if job.error is not None:
        error = BY_CODE.get(job.error.code, DarkroomError)(job.error.message)
        error.param = job.error.param
        raise error
    if job.status == "cancelled":
        raise JobEnded("The job was cancelled.")


def router(client: DispatcherClient, images: ImageStore) -> APIRouter:
    """Return the routes of jobs and files."""
    routes = APIRouter(route_class=Utf8Route)
    _add_submit(routes, client)
    _add_list(routes, client)
    _add_reading(routes, client)
    _add_ending(routes, client)
    _add_files(routes, client, images)
    return routes


def _add_submit(routes: APIRouter, client: DispatcherClient) -> None:
    @routes.post(
        "/jobs",
        status_code=202,
        tags=["jobs"],
        summary="Queue pictures",
        description="The job is on disk when this answers. `Location` is its address, `Retry-After` a guess at when it "
        "is done. With `Prefer: wait=N` the answer comes when the job has ended (200), or after N seconds (202).",
        responses={
            200: answer(Job, DONE, description="It has ended already."),
            202: answer(Job, QUEUED),
            **documented(400, 404, 410, 413, 422, 429, 503),
        },
    )
    async def submit(
        body: GenerationRequest, request: Request, idempotency_key: IdempotencyKey = None, prefer: Prefer = None
    ) -> JSONResponse:
        seconds, owner = wait_s(prefer), owner_of(request)
        job = await client.submit(body, owner, idempotency_key)
        headers = {"Location": f"/v1/jobs/{job.id}"} | await allowance_headers(client, owner)
        if seconds is not None:
            job = await _waited(client, job, seconds)
            headers |= _applied(seconds)
        if not job.ended:
            told = job.queue.end_eta_s if job.queue else job.progress.eta_s if job.progress else 0.0
            headers["Retry-After"] = str(max(1, ceil(told)))
        return JSONResponse(job_body(job), 200 if job.ended else 202, headers)


async def _waited(client: DispatcherClient, job: Job, seconds: float) -> Job:
    """Return a job as it has ended, or as it is after so many seconds; as it was where that cannot be found out."""
    with suppress(TimeoutError, Unavailable):
        async with asyncio.timeout(seconds):
            async for state in client.watch(job.id):
                job = state
    return job


def _applied(seconds: int) -> dict[str, str]:
    return {"Preference-Applied": f"wait={seconds}"}


def _add_list(routes: APIRouter, client: DispatcherClient) -> None:
    @routes.get(
        "/jobs",
        tags=["jobs"],
        summary="Your jobs, newest first",
        responses={200: answer(JobList, JOBS), **documented(400, 404, 410, 503)},
    )
    async def mine(
        request: Request,
        status: Annotated[Status | None, Query(description="Only those of one status.")] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="So many at most.")] = 20,
        after: Annotated[
            str | None, Query(max_length=100, description="Only those that came before this one: a job's id.")
        ] = None,
    ) -> JSONResponse:
        found = await client.jobs(owner_of(request), status, limit + 1, after)
        page = found[:limit]
        last_id = page[-1].id if page else None
        body = {"object": "list", "data": [job_body(job) for job in page]}
        return JSONResponse(body | {"has_more": len(found) > limit, "last_id": last_id})


def _add_reading(routes: APIRouter, client: DispatcherClient) -> None:
    async def shown(job_id: JobId, request: Request, link: Link = "") -> Job:
        """Find a job that the caller may look at: before a stream begins, as afterwards it is too late for a 404."""
        return await client.job(job_id, owner_of(request), link)

    @routes.get(
        "/jobs/{job_id}",
        tags=["jobs"],
        summary="One job as it is now",
        description="With `Prefer: wait=N` the answer comes when the job has ended, or after N seconds.",
        responses={200: answer(Job, DONE), **documented(400, 404, 410, 503)},
    )
    async def read(job: Annotated[Job, Depends(shown)], prefer: Prefer = None) -> JSONResponse:
        seconds = wait_s(prefer)
        if seconds is None:
            return JSONResponse(job_body(job))
        return JSONResponse(job_body(await _waited(client, job, seconds)), headers=_applied(seconds))

    @routes.get(
        "/jobs/{job_id}/watch",
        tags=["jobs"],
        summary="A job's newest state, each time it changes, until it has ended",
        description="Server-sent events of one type, `job`, each with the whole job as it is; five a second at most. "
        "Coming back gives the present state. A comment comes every 15 s while nothing changes. Once the job has "
        "ended, a request whose `Last-Event-ID` is that of the last event gets a 204, which stops an `EventSource`.",
        response_class=Response,
        responses={
            200: {"content": {"text/event-stream": EVENTS}},
            204: {"description": "The job has ended, and `Last-Event-ID` is that of its last event."},
            **documented(400, 404, 410, 503),
        },
    )
    async def watch(job: Annotated[Job, Depends(shown)], last_event_id: LastEventId = None) -> Response:
        if job.ended and last_event_id == _event_id(job):
            return Response(status_code=204)
        return event_stream(_states(client, job.id))


async def _states(client: DispatcherClient, job_id: str) -> AsyncGenerator[bytes, None]:
    with suppress(NotFound, Gone):  # since it was found: the stream ends, and the next request is answered so
        async for state in client.watch(job_id):
            yield encode_event(job_body(state), "job", _event_id(state))


def _event_id(job: Job) -> str:
    return str(job.version)


def _add_ending(routes: APIRouter, client: DispatcherClient) -> None:
    about: dict[str, Any] = {
        "tags": ["jobs"],
        "summary": "End a job",
        "description": "It leaves the line, or the denoiser within one step.",
        "responses": {200: answer(Job, {**QUEUED, "status": "cancelled"}), **documented(400, 404, 409, 410, 503)},
    }

    @routes.post("/jobs/{job_id}/cancel", **about)
    @routes.delete("/jobs/{job_id}", **about)
    async def cancel(job_id: JobId, request: Request) -> JSONResponse:
        return JSONResponse(job_body(await client.cancel(job_id, owner_of(request))))


def _add_files(routes: APIRouter, client: DispatcherClient, images: ImageStore) -> None:
    @routes.get(
        "/files/{name}",
        tags=["images"],
        summary="A finished picture",
        response_class=Response,
        responses={
            200: {"content": {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()}},
            304: {"description": "`If-None-Match` named what you have."},
            **documented(400, 404, 410, 503),
        },
    )
    async def file(name: FileName, request: Request, link: Link = "") -> Response:
        job_id = images.job_of(name)
        job = await client.job(job_id, owner_of(request), link)
        if name not in (image.name for image in job.images):
            raise NotFound(f"There is no file {name}.")
        headers = kept_forever(name)
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        content = await asyncio.to_thread(images.get, name)
        return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)
