"""The Hugging Face dialect, of text to image and image to image: body -> `GenerationRequest`, `Job` -> the picture's
bytes; and its routes."""

import asyncio
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field, create_model, field_validator, model_validator
from pydantic_core import PydanticKnownError

from deployments.api.auth import owner_of
from deployments.api.dialect import Dialect, refused
from deployments.api.errors import IMAGE_SIGNATURES, HFError, documented
from deployments.api.headers import IdempotencyKey, allowance_headers
from deployments.api.inline_images import submit_with_images
from deployments.api.jobs import MEDIA_TYPES, ended
from deployments.api.json_body import ImageJsonRoute
from deployments.api.sizes import size_like
from deployments.dispatcher.client import DispatcherClient
from deployments.errors import UnknownModel
from deployments.image_store import ImageStore
from deployments.input_intake import InputIntake, Upload
from deployments.jobs import Job
from deployments.nested_requests import UNMASKED, InitRequest
from deployments.request_body import RequestBody
from deployments.schema import MAX_PROMPT, GenerationRequest, VariationRequest
from models.errors import InvalidRequest
from models.model_card import ModelCard, find_card
from models.parameters import MAX_SIDE, MIN_SIDE, Sampler

DIALECT = Dialect({"prompt": "inputs", "sampler": "scheduler"})
ROUTE_FIELDS = ("model", "num_images", "output_format")  # fields that are the path, always 1, and the header `Accept`
INIT: dict[str, Any] = {  # of an image that is sent as `inputs`
    name: (field.annotation, field) for name, field in InitRequest.model_fields.items() if name in UNMASKED
}
OF_IMAGE = Dialect({"sampler": "scheduler", "init.input": "inputs", **{f"init.{name}": name for name in INIT}})
TARGET_SIZE = {"width": "target_size.width", "height": "target_size.height"}
OF_IMAGES = ("prompt", "target_size", *INIT)  # parameters of image to image alone
BINARY = {"schema": {"type": "string", "format": "binary"}}
DATA_URL = "data:image/"
IMAGE_STARTS = (  # of an image in base64: the characters that its signature alone decides
    DATA_URL,
    *(b64encode(signature).decode()[: len(signature) * 8 // 6] for signature in IMAGE_SIGNATURES),
)
DATA_URL_OF_ANY = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[^,\s]*)?,", re.IGNORECASE)
ADDRESS = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
ModelId = Annotated[str, Path(description="A model's id.", examples=["shapes"])]


class TargetSize(RequestBody):
    """The size of an image that is made from another."""

    width: int = Field(ge=MIN_SIDE, le=MAX_SIDE, description="Width in pixels.")
    height: int = Field(ge=MIN_SIDE, le=MAX_SIDE, description="Height in pixels.")


class OwnParameters(RequestBody):
    """What Hugging Face calls otherwise, or has beside."""

    scheduler: Sampler | None = Field(None, description="A sampler, by our name.")
    prompt: str | None = Field(
        None, max_length=MAX_PROMPT, description="What the picture shows, where `inputs` is an image."
    )
    target_size: TargetSize | None = Field(
        None, description="The size, where `inputs` is an image. Default: one of its shape."
    )
    mask_image: Annotated[None, refused("POST /v1/images/edits takes a mask")] = Field(
        None, description="Not supported."
    )


HFParameters: Any = create_model("HFParameters", __base__=OwnParameters, **DIALECT.shared_fields(*ROUTE_FIELDS), **INIT)


class HFBody(RequestBody):
    """What `InferenceClient.text_to_image` and `image_to_image` send."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": "a red circle on a blue background", "parameters": {"seed": 7}}]},
    )

    inputs: str = Field(min_length=1, description="What the picture shows; or an image to begin with, in base64.")
    parameters: HFParameters | None = None  # type: ignore[valid-type]
    options: dict[str, Any] | None = Field(None, description="Accepted and ignored.")

    @model_validator(mode="before")
    @classmethod
    def _from_image(cls, body: Any) -> Any:
        """Take an image that is the body itself, as clients send it that have no parameters."""
        if isinstance(body, bytes) and body.startswith(IMAGE_SIGNATURES):
            return {"inputs": f"{DATA_URL}*;base64,{b64encode(body).decode()}"}
        return body

    @field_validator("inputs")
    @classmethod
    def _is_usable(cls, inputs: str) -> str:
        if is_image(inputs):
            return inputs
        if ADDRESS.fullmatch(inputs):
            raise ValueError("must be text, or an image in base64: addresses are not fetched")
        if DATA_URL_OF_ANY.match(inputs):
            raise ValueError(
                "must be text, or an image in base64; a data URL must begin with data:image/ and be one word"
            )
        if len(inputs) > MAX_PROMPT:
            raise PydanticKnownError("string_too_long", {"max_length": MAX_PROMPT})
        return inputs


def is_image(inputs: str) -> bool:
    """Whether `inputs` are an image: one word that begins as files of images do in base64, which no prompt does."""
    return inputs.startswith(IMAGE_STARTS) and " " not in inputs


def image_of(inputs: str) -> bytes:
    """Return the image that `inputs` are. Raises InvalidRequest: it is no base64."""
    head, comma, encoded = inputs.partition(",")
    try:
        if comma and not head.endswith(";base64"):
            raise ValueError
        return b64decode(encoded if comma else inputs)
    except ValueError:
        raise InvalidRequest("inputs must be a whole image in base64.", "inputs") from None


def to_request(
    body: HFBody, model: str, accept: str | None, upload: Upload | None = None, card: ModelCard | None = None
) -> GenerationRequest:
    """Return the request that a body means; with the image that its `inputs` are, if they are one.

    Raises:
        InvalidRequest: no format of ours is accepted; or in the names of the dialect.
    """
    fields: dict[str, Any] = body.parameters.model_dump(exclude_unset=True) if body.parameters is not None else {}
    if "scheduler" in fields:
        fields["sampler"] = fields.pop("scheduler")
    output_format = preferred_format(accept or "*/*")
    if output_format is not None:
        fields["output_format"] = output_format
    fields["model"] = model
    if upload is not None:
        return _image_request(fields, upload, card)
    if others := [name for name in OF_IMAGES if name in fields]:
        name = f"parameters.{others[0]}"
        raise InvalidRequest(f"{name} is for image to image: inputs must be an image in base64.", name)
    return DIALECT.read(fields | {"prompt": body.inputs})


def _image_request(fields: dict[str, Any], upload: Upload, card: ModelCard | None) -> GenerationRequest:
    if "init" in fields:
        raise InvalidRequest("init must be left out where inputs is an image.", "init")
    target = fields.pop("target_size", {})
    if given := [name for name in target if name in fields]:
        raise InvalidRequest(f"target_size must be left out beside {given[0]}.", "target_size")
    if not {"width", "height"} & {*fields, *target} and card is not None:
        target["width"], target["height"] = size_like(card, (upload.width, upload.height))
    init = {name: fields.pop(name) for name in INIT if name in fields}
    kind = GenerationRequest if "prompt" in fields else VariationRequest
    return OF_IMAGE.read(fields | target | {"init": {**init, "input": upload.id}}, kind)


def dialect_of(body: HFBody) -> Dialect:
    """Return what the fields of a request are called in a body."""
    if not is_image(body.inputs):
        return DIALECT
    has_target = body.parameters is not None and body.parameters.target_size is not None
    return Dialect({**OF_IMAGE.names, **TARGET_SIZE}) if has_target else OF_IMAGE


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


def router(client: DispatcherClient, images: ImageStore, intake: InputIntake) -> APIRouter:
    """Return the dialect's routes."""
    routes = APIRouter(route_class=ImageJsonRoute, tags=["hugging face"])

    @routes.post("/hf/models/{model_id:path}/health", include_in_schema=False)
    async def no_model_is_called_so(model_id: str) -> None:
        raise HTTPException(405)

    @routes.post(
        "/hf/models/{model_id:path}",
        summary="Draw a picture, from a text or an image, and get its bytes",
        openapi_extra={"requestBody": {"content": dict.fromkeys(MEDIA_TYPES.values(), BINARY)}},
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
        dialect = dialect_of(body)
        with dialect.errors():
            if is_image(body.inputs):
                job = await _submit_image(client, intake, body, model_id, accept, owner, idempotency_key)
            else:
                job = await client.submit(to_request(body, model_id, accept), owner, idempotency_key)
        headers = await allowance_headers(client, owner)
        with dialect.errors():
            [image] = (await ended(client, job)).images
        content = await asyncio.to_thread(images.get, image.name)
        kind = MEDIA_TYPES[image.spec.output_format]
        return Response(content, media_type=kind, headers={"x-seed": str(image.seed), "x-job-id": job.id} | headers)

    @routes.get(
        "/hf/models/{model_id:path}/health",
        summary="Whether a model is served",
        responses=documented(400, 404, 503, shape=HFError),
    )
    async def health(model_id: ModelId) -> JSONResponse:
        if find_card(await client.models(), model_id) is None:
            raise UnknownModel(f"There is no model {model_id[:200]}.", "model")
        return JSONResponse({"status": "ok"})

    return routes


async def _submit_image(
    client: DispatcherClient,
    intake: InputIntake,
    body: HFBody,
    model: str,
    accept: str | None,
    owner: str,
    key: str | None,
) -> Job:
    """Queue what a body means whose inputs are an image. Raises DarkroomError: nothing was queued."""
    content = await asyncio.to_thread(image_of, body.inputs)
    if key is None:  # a repeated request is not refused
        await intake.check_room(owner, len(content))
    upload = await intake.read(owner, content, "inputs", Upload.of)
    request = to_request(body, model, accept, upload, find_card(await client.models(), model))
    return await submit_with_images(client, intake, request, [upload], owner, key)
