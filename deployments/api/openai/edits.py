"""Images from an image, as OpenAI's clients ask for them: edits, by a text and a mask, and variations."""

from typing import Any

from fastapi import APIRouter, Request, Response

from deployments.api.auth import owner_of
from deployments.api.form import counted, described, read_fields, read_parts
from deployments.api.headers import IdempotencyKey
from deployments.api.inline_images import submit_with_images
from deployments.api.openai.answers import Answers, answered
from deployments.api.openai.edited import MAX_FILES, SentImage, SentImages, read_sent
from deployments.api.openai.fields import EDITS, INIT, EditBody, VariationBody, request_values, sizes_named
from deployments.api.sizes import Size, size_like
from deployments.config import Sizes
from deployments.dispatcher.client import DispatcherClient
from deployments.input_intake import InputIntake
from deployments.jobs import Job
from deployments.schema import GenerationRequest, VariationRequest
from models.model_card import ModelCard, find_card

EVENT = "image_edit"
MAX_FIELDS = 100  # of a form
FORM_PARTS = f"a file, image, and {MAX_FIELDS} or fewer other fields"
IMAGE = "A PNG, JPEG or WebP file. With transparency and without a mask, its transparent part is made anew."
MASK = "A PNG or WebP file of the same size. Its transparent part is made anew, and the rest of the image is kept."


def router(client: DispatcherClient, intake: InputIntake, answers: Answers, sizes: Sizes = "exact") -> APIRouter:
    """Return the routes. With `nearest` sizes, one that a model does not allow is not refused."""
    routes = APIRouter(tags=["images"])
    asked = _Asked(client, intake, sizes)

    @routes.post(
        "/images/edits",
        summary="Make an image anew, whole or where a mask says",
        description="OpenAI's form, answer and events. `strength` says how much is made anew. With a mask, the pixels "
        "outside it are put back, unless `paste_back` is false. Without a `size`, or with `auto`, the image has the "
        "shape of the one that was sent.",
        openapi_extra=described(EditBody, {"image": IMAGE, "mask": MASK}, ["image"]),
        responses=answered(EVENT),
    )
    async def edit(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        job, body, sent = await asked.submit(request, EditBody, idempotency_key)
        return await answers.answer(job, body, request, EDITS, EVENT, sent)

    @routes.post(
        "/images/variations",
        summary="Draw variations of an image",
        description="OpenAI's form and answer: image to image, without a text.",
        openapi_extra=described(VariationBody, {"image": IMAGE}, ["image"]),
        responses=answered(None),
    )
    async def vary(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        job, body, sent = await asked.submit(request, VariationBody, idempotency_key)
        return await answers.answer(job, body, request, EDITS, EVENT, sent)

    return routes


class _Asked:
    """What was asked for with a form."""

    def __init__(self, client: DispatcherClient, intake: InputIntake, sizes: Sizes) -> None:
        self._client = client
        self._intake = intake
        self._sizes: Sizes = sizes

    async def submit(self, request: Request, kind: Any, key: str | None) -> tuple[Job, Any, Size]:
        """Queue what the form of a request means; return the job, the form as a body of a kind, and its image's size.

        Raises:
            InvalidRequest: in the names of the dialect; nothing was queued.
        """
        owner = owner_of(request)
        with counted(request, self._intake, owner) as sent:
            images, rest = SentImages.of(await read_parts(sent, MAX_FILES, MAX_FIELDS, FORM_PARTS))
            body = read_fields(kind, rest)
            if key is None:  # a repeated request is not refused
                await self._intake.check_room(owner, images.size)
            image = await read_sent(self._intake, owner, images, takes_mask=kind is EditBody)
            card = find_card(await self._client.models(), body.model)
            async with sizes_named(self._client, body):
                with EDITS.errors():
                    asked = self._request(body, image, card)
                    job = await submit_with_images(
                        self._client, self._intake, asked, image.uploads, owner, key, alpha_is_mask=image.is_own_mask
                    )
        return job, body, image.size

    def _request(self, body: Any, image: SentImage, card: ModelCard | None) -> GenerationRequest:
        values = request_values(body, card, self._sizes)
        if body.size == "auto" and card is not None:
            values["width"], values["height"] = size_like(card, image.size)
        init = body.model_dump(exclude_unset=True, include=set(INIT)) | {"input": image.upload.id}
        if image.mask is not None:
            init = {"paste_back": True, **({"strength": 1.0} if image.is_own_mask else {}), **init}
            init["mask"] = image.mask.id
        kind = GenerationRequest if "prompt" in values else VariationRequest
        return EDITS.read(values | {"init": init}, kind)
