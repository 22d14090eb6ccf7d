"""What the page's handlers ask the Dispatcher for."""

import gradio as gr

from deployments.dispatcher.client import DispatcherClient
from deployments.jobs import Job
from models.errors import DarkroomError
from models.model_card import ModelCard


async def shared_job(client: DispatcherClient, shared: str, owner: str) -> Job:
    """Return the job that a link names: `id.secret`. Raises: NotFound, Gone."""
    job_id, _, link = shared.partition(".")
    return await client.job(job_id, owner, link)


async def served_models(client: DispatcherClient) -> list[ModelCard]:
    """Return the models served now; where that cannot be known, Gradio shows why."""
    try:
        return await client.models()
    except DarkroomError as error:
        raise gr.Error(error.message, print_exception=False) from error
