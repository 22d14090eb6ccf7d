"""What is served and how it is doing: models, tokens, queue, health, readiness."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, create_model

from deployments.api.errors import documented
from deployments.api.examples import MODEL, MODELS, QUEUE, READY, TOKENS, answer
from deployments.api.huggingface import ModelId
from deployments.api.json_body import Utf8Route
from deployments.dispatcher.client import DispatcherClient
from deployments.dispatcher.queue_stats import QueueStats
from deployments.errors import NotFound
from deployments.request_body import RequestBody
from deployments.request_errors import read_request
from deployments.schema import GenerationRequest
from deployments.serve.replicas import ApplicationState
from deployments.stages import STAGES
from models.errors import DarkroomError
from models.model_card import ModelCard, find_card
from models.spec import Tokens

READY_TIMEOUT_S = 3.0  # the Dispatcher answers, or is not ready
_words: dict[str, Any] = {
    name: (f.annotation, f)
    for name, f in GenerationRequest.model_fields.items()
    if name in ("prompt", "negative_prompt", "prompt_syntax", "style", "model")
}
Words: Any = create_model("Words", __base__=RequestBody, **_words)


class TokenCounts(BaseModel):
    """How the text encoder reads a request's words, those of its style with them."""

    prompt: Tokens
    negative_prompt: Tokens


class Model(BaseModel):
    """A model, as OpenAI lists it, with what it allows and prefers."""

    id: str
    object: str
    created: int
    owned_by: str
    capabilities: dict[str, Any]


class ModelList(BaseModel):
    """The models served."""

    object: str
    data: list[Model]


class Readiness(BaseModel):
    """Whether work can be taken; and if not, what is missing."""

    ready: bool
    missing: list[str]
    problem: str | None = None
    applications: dict[str, Any] | None = None


def router(
    client: DispatcherClient,
    applications: Callable[[], Mapping[str, ApplicationState]],
    models: Sequence[str],
    app_name: str,
) -> APIRouter:
    """Return the routes, over what Serve says of its applications."""
    routes = APIRouter(route_class=Utf8Route, tags=["service"])
    _add_models(routes, client)
    _add_state(routes, client)
    _add_ready(routes, client, applications, models, app_name)
    return routes


def _add_models(routes: APIRouter, client: DispatcherClient) -> None:
    @routes.get(
        "/models",
        summary="The models served, and what each allows",
        responses={200: answer(ModelList, MODELS), **documented(400, 503)},
    )
    async def models() -> JSONResponse:
        served = [model_body(card, name) for card in await client.models() for name in card.names]
        return JSONResponse({"object": "list", "data": served})

    @routes.get(
        "/models/{model_id:path}",
        summary="One model",
        responses={200: answer(Model, MODEL), **documented(400, 404, 503)},
    )
    async def model(model_id: ModelId) -> JSONResponse:
        card = find_card(await client.models(), model_id)
        if card is None:
            raise NotFound(f"There is no model {model_id[:200]}.", "model")
        return JSONResponse(model_body(card, model_id))

    @routes.post(
        "/tokenize",
        summary="How many tokens a prompt has, and what of it is not read",
        responses={200: answer(TokenCounts, TOKENS), **documented(400, 404, 409, 413, 503)},
    )
    async def tokenize(body: Words) -> JSONResponse:  # type: ignore[valid-type]
        request = read_request(body.model_dump(exclude_unset=True))
        prompt, negative_prompt = await client.tokens(request)
        return JSONResponse({"prompt": asdict(prompt), "negative_prompt": asdict(negative_prompt)})


def _add_state(routes: APIRouter, client: DispatcherClient) -> None:
    @routes.get(
        "/queue",
        summary="The whole queue at a glance",
        responses={200: answer(QueueStats, QUEUE), **documented(400, 503)},
    )
    async def queue() -> JSONResponse:
        return JSONResponse(asdict(await client.queue()))

    @routes.get(
        "/health",
        summary="Whether the API itself is alive",
        responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}},
    )
    async def health() -> dict[str, str]:
        return {"status": "ok"}


def _add_ready(
    routes: APIRouter,
    client: DispatcherClient,
    applications: Callable[[], Mapping[str, ApplicationState]],
    models: Sequence[str],
    app_name: str,
) -> None:
    @routes.get(
        "/ready",
        summary="200 when every stage of a model can take work, else 503",
        description="`missing` also names what the other models lack. Details are for callers with a key, where keys "
        "are on.",
        responses={
            200: answer(Readiness, READY),
            503: {"model": Readiness, "description": "What is missing, in words."},
        },
    )
    async def ready(request: Request) -> JSONResponse:
        states = await asyncio.to_thread(applications)
        no_queue = _missing(states, app_name, ["Dispatcher"])
        stages = [stage.deployment for stage in STAGES]
        lacking = [_missing(states, model, stages) for model in models]
        problem = None if no_queue else await _problem(client)
        is_ready = not no_queue and not all(lacking) and problem is None
        body: dict[str, Any] = {"ready": is_ready, "missing": sum(lacking, no_queue)}
        if request.state.owner is not None:
            body |= {"problem": problem, "applications": {name: asdict(state) for name, state in states.items()}}
        return JSONResponse(body, 200 if is_ready else 503)


def _missing(states: Mapping[str, ApplicationState], app_name: str, needed: Iterable[str]) -> list[str]:
    """Return the deployments that an application needs and that cannot take work."""
    found = states[app_name].deployments if app_name in states else {}
    return [f"{app_name}/{name}" for name in needed if name not in found or not found[name].ready]


async def _problem(client: DispatcherClient) -> str | None:
    """What keeps the Dispatcher from accepting jobs, if anything does."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            return await client.problem()
    except (TimeoutError, DarkroomError):
        return "The Dispatcher does not answer."


def model_body(card: ModelCard, name: str) -> dict[str, Any]:
    """Return a model as OpenAI lists it, by one of its names, with what it allows and prefers."""
    capabilities = asdict(card)
    for private in ("id", "examples", "files", "latent_rgb"):
        del capabilities[private]
    return {"id": name, "object": "model", "created": 0, "owned_by": "darkroom", "capabilities": capabilities}
