"""The Hugging Face text-to-image dialect: body -> `GenerationRequest`, `Job` -> the picture's bytes; and its routes."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, create_model

from deployments.api.auth import owner_of
from deployments.api.errors import HFError, documented
from deployments.api.headers import allowance_headers
from deployments.api.jobs import MEDIA_TYPES, ended
from deployments.dispatcher.client import DispatcherClient
from deployments.errors import UnknownModel
from deployments.image_store import ImageStore
from deployments.schema import MAX_PROMPT, GenerationRequest, fields_but
from models.errors import InvalidRequest
from models.parameters import Sampler

# Here `inputs`, the path, always one, `scheduler`, and what is accepted.
OTHERWISE = ("prompt", "model", "num_images", "sampler", "output_format")
ModelId = Annotated[str, Path(description="A model's id.", examples=["shapes"])]


class SchedulerName(BaseModel):
    """What Hugging Face calls otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheduler: Sampler | None = Field(None, description="A sampler, by our name.")


HFParameters: Any = create_model("HFParameters", __base__=SchedulerName, **fields_but(*OTHERWISE))


class HFBody(BaseModel):
    """What `InferenceClient.text_to_image` sends."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"inputs": "a red circle on a blue background", "parameters": {"seed": 7}}]},
    )

    inputs: str = Field(min_length=1, max_length=MAX_PROMPT, description="What the picture shows.")
    parameters: HFParameters | None = None  # type: ignore[valid-type]


def to_request(body: HFBody, model: str, accept: str | None) -> GenerationRequest:
    """Return the request that a body means; the picture's format is the first one of ours that `accept` names.

    Raises:
        InvalidRequest: none of ours is accepted.
    """
    fields: dict[str, Any] = (
        body.parameters.model_dump(exclude_unset=True, exclude_none=True) if body.parameters is not None else {}
    )
    scheduler = fields.pop("scheduler", None)
    if scheduler is not None:
        fields["sampler"] = scheduler
    wanted = [part.partition(";")[0].strip().lower() for part in (accept or "*/*").split(",")]
    formats = [name for kind in wanted for name, media_type in MEDIA_TYPES.items() if kind == media_type]
    if formats:
        fields["output_format"] = formats[0]
    elif not {"*/*", "image/*"} & set(wanted):
        raise InvalidRequest(f"Accept must name one of {', '.join(MEDIA_TYPES.values())}.", "Accept")
    return GenerationRequest(prompt=body.inputs, model=model, **fields)


def router(client: DispatcherClient, images: ImageStore) -> APIRouter:
    """Return the dialect's routes."""
    routes = APIRouter(tags=["hugging face"])

    @routes.post("/hf/models/{model_id:path}/health", include_in_schema=False)
    async def no_model_is_called_so(model_id: str) -> None:
        raise HTTPException(405)

    @routes.post(
        "/hf/models/{model_id:path}",
        summary="Draw a picture and get its bytes",
        response_class=Response,
        responses={
            200: {"content": {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()}},
            **documented(400, 404, 409, 413, 429, 503, 504, 507, shape=HFError),
        },
    )
    async def draw(
        model_id: ModelId, body: HFBody, request: Request, accept: Annotated[str | None, Header()] = None
    ) -> Response:
        owner = owner_of(request)
        job = await client.submit(to_request(body, model_id, accept), owner)
        headers = await allowance_headers(client, owner)
        [image] = (await ended(client, job)).images
        content = await asyncio.to_thread(images.get, image.name)
        kind = MEDIA_TYPES[image.spec.output_format]
        return Response(content, media_type=kind, headers={"x-seed": str(image.seed)} | headers)

    @routes.get(
        "/hf/models/{model_id:path}/health",
        summary="Whether a model is served",
        responses=documented(404, 503, shape=HFError),
    )
    async def health(model_id: ModelId) -> JSONResponse:
        if model_id not in (card.id for card in await client.models()):
            raise UnknownModel(f"There is no model {model_id[:200]}.", "model")
        return JSONResponse({"status": "ok"})

    return routes
