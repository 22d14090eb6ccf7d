"""The page's one endpoint for programs: `/generate`, for gradio_client. Its arguments are the schema's fields."""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from deployments.dispatcher.client import DispatcherClient
from deployments.schema import GenerationRequest, Job, read_request
from gradio_ingress.native_queue import show_place
from gradio_ingress.page_auth import owner_of
from gradio_ingress.status import STAGES
from models.errors import DarkroomError

ABOUT = (
    "Draws pictures and returns their files, the first one's seed, and the job. What is left out, or None, is as the "
    "model prefers. While it waits, the place in line and the estimate are those of the whole cluster."
)


def add_generate(client: DispatcherClient) -> None:
    """Add the endpoint to the Blocks that are being made."""
    gr.api(endpoint(client), api_name="generate", api_description=ABOUT, concurrency_limit=None)


def endpoint(client: DispatcherClient) -> Callable[..., Any]:
    """Return the function, whose signature Gradio reads: the caller, then each field of the schema."""

    async def generate(request: gr.Request, *given: Any) -> tuple[list[FileData], int, dict[str, Any]]:
        values, progress = dict(zip(GenerationRequest.model_fields, given, strict=True)), gr.Progress()
        try:
            wanted = read_request({name: value for name, value in values.items() if value is not None})
            submitted = await client.submit(wanted, owner_of(request))
            async for job in client.watch(submitted.id):
                _tell(job, progress)
        except DarkroomError as error:
            raise gr.Error(error.message, print_exception=False) from error
        if job.status != "succeeded":
            words = job.error.message if job.error else f"The job was {job.status}."
            raise gr.Error(words, print_exception=False)
        return _files(job), job.specs[0].seed, {"id": job.id, "warnings": list(job.warnings)}

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


def _or_none(kind: Any) -> Any:
    return kind | None


def _tell(job: Job, progress: gr.Progress) -> None:
    if job.queue is not None:
        show_place(job.queue)
    elif job.progress is not None:
        progress((job.progress.step, job.progress.steps), desc=STAGES[job.progress.stage], unit="steps")


def _files(job: Job) -> list[FileData]:
    """The pictures, where Gradio's clients look for files: `app` sends them on, with the job's read-only link."""
    return [FileData(path=f"{job.link}/{image.name}", orig_name=image.name, size=image.size) for image in job.images]
