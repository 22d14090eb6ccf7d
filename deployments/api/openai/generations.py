"""Images from a text, as OpenAI's clients ask for them."""

from typing import Any

from fastapi import APIRouter, Request, Response

from deployments.api.auth import owner_of
from deployments.api.headers import IdempotencyKey
from deployments.api.json_body import Utf8Route
from deployments.api.openai.answers import Answers, answered
from deployments.api.openai.fields import DIALECT, ImagesBody, needs_card, sizes_named, to_request
from deployments.config import Sizes
from deployments.dispatcher.client import DispatcherClient
from deployments.jobs import Job
from models.model_card import find_card

EVENT = "image_generation"


def router(client: DispatcherClient, answers: Answers, sizes: Sizes = "exact") -> APIRouter:
    """Return the route. With `nearest` sizes, one that a model does not allow is not refused."""
    routes = APIRouter(route_class=Utf8Route, tags=["images"])

    @routes.post(
        "/images/generations",
        summary="Draw pictures and wait for them",
        description="OpenAI's body and answer. With `stream` it is a stream of events, of OpenAI's types alone, and a "
        "comment every 15 s while none comes. `x-job-id` is the job's id, which its events have as `job_id` too.",
        responses=answered(EVENT),
    )
    async def generate(
        body: ImagesBody,  # type: ignore[valid-type]
        request: Request,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        job = await _submit(client, body, sizes, owner_of(request), idempotency_key)
        return await answers.answer(job, body, request, DIALECT, EVENT)

    return routes


async def _submit(client: DispatcherClient, body: Any, sizes: Sizes, owner: str, key: str | None) -> Job:
    """Queue the request that a body means.

    Raises:
        InvalidRequest: in the names of the dialect; nothing was queued.
    """
    card = find_card(await client.models(), body.model) if needs_card(body, sizes) else None
    async with sizes_named(client, body):
        with DIALECT.errors():
            return await client.submit(to_request(body, card, sizes), owner, key)
