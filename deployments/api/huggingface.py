"""The Hugging Face text-to-image dialect: body -> `GenerationRequest`, `Job` -> the picture's bytes; and its routes."""

import asyncio
import re
from base64 import b64encode
from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field, create_model, field_validator

from deployments.api.auth import owner_of
from deployments.api.dialect import Dialect
from deployments.api.errors import IMAGE_SIGNATURES, HFError, documented
from deployments.api.headers import IdempotencyKey, allowance_headers
from deployments.api.jobs import MEDIA_TYPES, ended
from deployments.api.json_body import Utf8Route
from deployments.dispatcher.client import DispatcherClient
from deployments.errors import UnknownModel
from deployments.image_store import ImageStore
from deployments.request_body import RequestBody
from deployments.schema import MAX_PROMPT, GenerationRequest
from models.errors import InvalidRequest
from models.parameters import Sampler
from models.spec import find_card

DIALECT = Dialect({"prompt": "inputs", "sampler": "scheduler"})
ROUTE_FIELDS = ("model", "num_images", "output_format")  # fields that are the path, always 1, and the header `Accept`
IMAGE_PARAMETERS = {"prompt", "target_size", "strength", "image", "mask_image"}  # of tasks that take an image
IMAGE_STARTS = (  # of an image in base64: the characters that its signature alone decides
    "data:image/",
    *(b64encode(signature).decode()[: len(signature) * 8 // 6] for signature in IMAGE_SIGNATURES),
)
ModelId = Annotated[str, Path(description="A model's id.", examples=["shapes"])]


class SchedulerName(RequestBody):
    """What Hugging Face calls otherwise."""

    scheduler: Sampler | None = Field(None, description="A sampler, by our name.")


HFParameters: Any = create_model("HFParameters", __base__=SchedulerName, **DIALECT.shared_fields(*ROUTE_FIELDS))


class HFBody(RequestBody):
    """What `InferenceClient.text_to_image` sends."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": "a red circle on a blue background", "parameters": {"seed": 7}}]},
    )

    inputs: str = Field(min_length=1, max_length=MAX_PROMPT, description="What the picture shows.")
    parameters: HFParameters | None = None  # type: ignore[valid-type]
    options: dict[str, Any] | None = Field(None, description="Accepted and ignored.")

    @field_validator("inputs", mode="before")
    @classmethod
    def _is_text(cls, inputs: Any) -> Any:
        if isinstance(inputs, str) and inputs.startswith(IMAGE_STARTS):
            raise ValueError("must be a prompt: image-to-image is not offered")
        return inputs

    @field_validator("parameters", mode="before")
    @classmethod
    def _are_of_text_to_image(cls, parameters: Any) -> Any:
        others = sorted(IMAGE_PARAMETERS & parameters.keys()) if isinstance(parameters, dict) else []
        if others:
            raise ValueError(f"must be those of text-to-image, not {', '.join(others)}: image-to-image is not offered")
        return parameters


def to_request(body: HFBody, model: str, accept: str | None) -> GenerationRequest:
    """Return the request that a body means.

    Raises:
        InvalidRequest: no format of ours is accepted; or in the names of the dialect.
    """
    fields: dict[str, Any] = body.parameters.model_dump(exclude_unset=True) if body.parameters is not None else {}
    if "scheduler" in fields:
        fields["sampler"] = fields.pop("scheduler")
    output_format = preferred_format(accept or "*/*")
    if output_format is not None:
        fields["output_format"] = output_format
    return DIALECT.read(fields | {"prompt": body.inputs, "model": model})


def preferred_format(accept: str) -> str | None:
    """Return the format of ours with the highest `q` in an `Accept` header, the first of several.

    None leaves it to the model: a wildcard has the highest one.

    Raises:
        InvalidRequest: none of ours is accepted.
    """
    weights: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = [each.strip().lower() for each in part.split(";")]
        weights.setdefault(kind, _weight(parameters))
    of_others = weights.get("image/*", weights.get("*/*", 0.0))
    names = {media_type: name for name, media_type in MEDIA_TYPES.items()}
    named = [(weight, names[kind]) for kind, weight in weights.items() if kind in names]
    weight, name = max(named, key=itemgetter(0), default=(0.0, None))
    if weight >= of_others and weight > 0:
        return name
    others = [each for kind, each in names.items() if kind not in weights]
    if of_others > 0 and others:
        return others[0] if named else None
    raise InvalidRequest(f"Accept must name one of {', '.join(MEDIA_TYPES.values())}.", "Accept")


def _weight(parameters: Sequence[str]) -> float:
    """Return the `q` among the parameters of a media type, 1 where there is none that is a number."""
    given = next((each.removeprefix("q=") for each in parameters if each.startswith("q=")), "1")
    is_number = re.fullmatch(r"[01]?\.[0-9]+|[01]\.?", given) is not None  # Java sends .2
    return min(1.0, float(given)) if is_number else 1.0


def router(client: DispatcherClient, images: ImageStore) -> APIRouter:
    """Return the dialect's routes."""
    routes = APIRouter(route_class=Utf8Route, tags=["hugging face"])

    @routes.post("/hf/models/{model_id:path}/health", include_in_schema=False)
    async def no_model_is_called_so(model_id: str) -> None:
        raise HTTPException(405)

    @routes.post(
        "/hf/models/{model_id:path}",
        summary="Draw a picture and get its bytes",
        response_class=Response,
        responses={
            200: {"content": {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()}},
            **documented(400, 404, 409, 410, 413, 422, 429, 503, 504, 507, shape=HFError),
        },
    )
    async def draw(
        model_id: ModelId,
        body: HFBody,
        request: Request,
        accept: Annotated[str | None, Header()] = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        owner = owner_of(request)
        with DIALECT.errors():
            job = await client.submit(to_request(body, model_id, accept), owner, idempotency_key)
        headers = await allowance_headers(client, owner)
        with DIALECT.errors():
            [image] = (await ended(client, job)).images
        content = await asyncio.to_thread(images.get, image.name)
        kind = MEDIA_TYPES[image.spec.output_format]
        return Response(content, media_type=kind, headers={"x-seed": str(image.seed), "x-job-id": job.id} | headers)

    @routes.get(
        "/hf/models/{model_id:path}/health",
        summary="Whether a model is served",
        responses=documented(404, 503, shape=HFError),
    )
    async def health(model_id: ModelId) -> JSONResponse:
        if find_card(await client.models(), model_id) is None:
            raise UnknownModel(f"There is no model {model_id[:200]}.", "model")
        return JSONResponse({"status": "ok"})

    return routes
