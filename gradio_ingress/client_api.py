"""The page's one endpoint for API clients: `/generate`, for gradio_client. Its arguments are the schema's fields."""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from deployments.dispatcher.client import DispatcherClient
from deployments.schema import GenerationRequest, Job, read_request
from gradio_ingress.gradio_queue import send_position
from gradio_ingress.page_auth import owner_of
from gradio_ingress.status import ACTIVITIES
from models.errors import DarkroomError

DESCRIPTION = (
    "Generates images and returns their files, the first one's seed, and the job. A field that is left out, or None, "
    "has the model's default. While the job waits, the queue position and the estimate are those of the whole cluster."
)


def add_generate(client: DispatcherClient) -> None:
    """Add the endpoint to the Blocks that are being built."""
    gr.api(endpoint(client), api_name="generate", api_description=DESCRIPTION, concurrency_limit=None)


def endpoint(client: DispatcherClient) -> Callable[..., Any]:
    """Return the endpoint's function. Gradio reads its signature: the caller, then each field of the schema."""

    async def generate(request: gr.Request, *given: Any) -> tuple[list[FileData], int, dict[str, Any]]:
        values, progress = dict(zip(GenerationRequest.model_fields, given, strict=True)), gr.Progress()
        try:
            wanted = read_request({name: value for name, value in values.items() if value is not None})
            submitted = await client.submit(wanted, owner_of(request))
            async for job in client.watch(submitted.id):
                _report(job, progress)
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


def _report(job: Job, progress: gr.Progress) -> None:
    if job.queue is not None:
        send_position(job.queue)
    elif job.progress is not None:
        progress((job.progress.step, job.progress.steps), desc=ACTIVITIES[job.progress.stage], unit="steps")


def _files(job: Job) -> list[FileData]:
    """The images, where Gradio's clients fetch files: `app` redirects them, with the job's read-only link."""
    return [FileData(path=f"{job.link}/{image.name}", orig_name=image.name, size=image.size) for image in job.images]
