"""The page's one endpoint for API clients: `/generate`, for gradio_client. Its arguments are the schema's fields."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from inspect import Parameter, Signature
from typing import Any

import gradio as gr
from gradio.data_classes import CancelBody, FileData
from starlette.requests import Request
from starlette.responses import JSONResponse

from deployments.dispatcher.client import DispatcherClient
from deployments.error_responses import respond
from deployments.errors import JobEnded
from deployments.jobs import Job
from deployments.origins import base_url, link_to
from deployments.request_errors import read_request
from deployments.schema import GenerationRequest
from gradio_ingress.gradio_queue import event_id, has_event, send_position
from gradio_ingress.page_auth import owner_of, owner_or_tab
from gradio_ingress.status import ACTIVITIES
from models.errors import DarkroomError, InvalidRequest
from models.model_card import find_card

DESCRIPTION = (
    "Generates images and returns their files, the first one's seed, and the job. A field that is left out, or None, "
    "has the model's default. While the job waits, the queue position and the estimate are those of the whole cluster. "
    "Cancelling the call ends the job; closing the connection does not."
)
START_TIMEOUT_S = 3.0  # within which Gradio starts an event, unless a thousand others run
POLL_INTERVAL_S = 0.05
MAX_CANCELLED = 1000  # calls that were cancelled before Gradio started them


class ClientApi:
    """`/generate` over a client of the Dispatcher, and how a call of it is cancelled.

    Gradio's own way to cancel ends the tasks of every call of a session, none of their jobs, and tells only one of the
    calls. So `cancel` takes its place: it ends one job, and the call that watches it ends with it.
    """

    def __init__(self, client: DispatcherClient, blocks: gr.Blocks, public_url: str | None = None) -> None:
        self._client = client
        self._public_url = public_url
        self._blocks = blocks
        self._submissions: dict[str | None, asyncio.Task[Job]] = {}  # of the calls that run, by the id of their event
        self._cancelled: dict[
            tuple[str | None, str], bool
        ] = {}  # event and owner of calls to end at their start; oldest first

    def add(self) -> None:
        """Add the endpoint to the Blocks that are being built."""
        gr.api(self.endpoint(), api_name="generate", api_description=DESCRIPTION, concurrency_limit=None)

    def endpoint(self) -> Callable[..., Any]:
        """Return the endpoint's function. Gradio reads its signature: the caller, then each field of the schema."""

        async def generate(request: gr.Request, *given: Any) -> tuple[list[FileData], int, dict[str, Any]]:
            values = dict(zip(GenerationRequest.model_fields, given, strict=True))
            owner = owner_of(request)
            if self._cancelled.pop((event_id(), owner), False):
                raise gr.Error("The call was cancelled.", print_exception=False)
            try:
                job = await self._generated(values, owner)
            except DarkroomError as error:
                raise gr.Error(error.message, print_exception=False) from error
            if job.status != "succeeded":
                words = job.error.message if job.error else f"The job was {job.status}."
                raise gr.Error(words, print_exception=False)
            return self._files(job, request), job.specs[0].seed, {"id": job.id, "warnings": list(job.warnings)}

        fields = [
            Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=field.annotation)
            if field.is_required()
            else Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=_or_none(field.annotation), default=None)
            for name, field in GenerationRequest.model_fields.items()
        ]
        caller = Parameter("request", Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
        returns = tuple[list[FileData], int, dict[str, Any]]
        parameters = [caller, *fields]
        generate.__signature__ = Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
        generate.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": returns}
        return generate

    async def cancel(self, body: CancelBody, request: Request) -> JSONResponse:
        """Answer a client that cancels a call: end its job, or the call itself once Gradio starts it."""
        owner = owner_or_tab(request.state.owner, body.session_hash)
        job = await self._job(body.event_id)
        try:
            if job is not None:
                with suppress(JobEnded):
                    await self._client.cancel(job.id, owner)
            elif has_event(self._blocks, body.event_id):
                self._cancel_at_start(body.event_id, owner)
        except DarkroomError as error:
            return respond(error)
        return JSONResponse({"success": True})

    def _files(self, job: Job, request: gr.Request) -> list[FileData]:
        """The images, with addresses that open anywhere, by the job's read-only link.

        `path` is where gradio_client fetches a file from, below Gradio's own prefix: `app` redirects it.
        """
        assert request.request is not None, "Gradio calls it with a request"
        base = base_url(request.request.scope, self._public_url)
        return [
            FileData(
                path=f"{job.link}/{image.name}",
                url=f"{base}{link_to(job, image)}",
                orig_name=image.name,
                size=image.size,
            )
            for image in job.images
        ]

    async def _generated(self, values: dict[str, Any], owner: str) -> Job:
        """Return the job of some values once it has ended. Raises DarkroomError."""
        progress = gr.Progress()
        wanted = await self._read(values)
        submission = asyncio.create_task(self._client.submit(wanted, owner))
        with self._running(submission):
            job = await submission
            async for state in self._client.watch(job.id):
                _report(state, progress)
                job = state
        return job

    async def _read(self, values: dict[str, Any]) -> GenerationRequest:
        """Return the request of some values. Raises InvalidRequest, with the bound of the model that they name."""
        try:
            return read_request(values)
        except InvalidRequest:
            return read_request(values, find_card(await self._client.models(), values["model"]))

    @contextmanager
    def _running(self, submission: asyncio.Task[Job]) -> Iterator[None]:
        """Let the call of this context be cancelled."""
        event = event_id()
        self._submissions[event] = submission
        try:
            yield
        finally:
            self._submissions.pop(event, None)

    async def _job(self, event: str) -> Job | None:
        """Return the job of a call; None if there is no such call, it has not started, or it has no job."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                while event not in self._submissions and has_event(self._blocks, event):
                    await asyncio.sleep(POLL_INTERVAL_S)
        with suppress(DarkroomError):  # nothing was queued
            if event in self._submissions:
                return await asyncio.shield(self._submissions[event])
        return None

    def _cancel_at_start(self, event: str, owner: str) -> None:
        self._cancelled[event, owner] = True
        if len(self._cancelled) > MAX_CANCELLED:
            del self._cancelled[next(iter(self._cancelled))]


def _or_none(kind: Any) -> Any:
    return kind | None


def _report(job: Job, progress: gr.Progress) -> None:
    if job.queue is not None:
        send_position(job.queue)
    elif job.progress is not None:
        progress((job.progress.step, job.progress.steps), desc=ACTIVITIES[job.progress.stage], unit="steps")
