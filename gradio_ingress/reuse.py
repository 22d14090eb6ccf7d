"""What a picture brings back into the form: its seed, itself as an image to begin with, or all that it was made of."""

import asyncio
from collections.abc import Mapping
from typing import Any

import gradio as gr

from deployments.dispatcher.client import DispatcherClient
from deployments.errors import InputNotFound
from deployments.jobs import Job
from gradio_ingress import png_info, status
from gradio_ingress.image_texts import format_of
from gradio_ingress.layout import Layout, Update, card_of, problem
from gradio_ingress.lookups import served_models, shared_job
from gradio_ingress.page_auth import owner_of
from gradio_ingress.restored import settings_here, usable
from gradio_ingress.uploads import read_once
from models.errors import DarkroomError
from models.model_card import ModelCard

LOST = "The image that it began with is gone or is not yours, so it is left out."
BEGINS = "The next picture begins with this one."
MASK_REMOVED = "The mask was removed, as its image had another size."
EXTENDED = "The image was extended. The next picture fills what is new."
BEGIN = (
    "init.input",
    "init.mask",
    "init.area",
    "init.strength",
)  # the controls that another image to begin with changes


class Reuse:
    """Fills the form of a page from pictures: those in its gallery, and files."""

    def __init__(self, client: DispatcherClient, parts: Layout) -> None:
        self._client = client
        self._parts = parts

    async def on_reuse(self, given: Update, request: gr.Request, event: gr.EventData) -> Update:
        """Put a picture, its seed, or all that it was made of, back into the form."""
        owner, index = owner_of(request), int(event.index)
        try:
            job = await shared_job(self._client, event.job, owner)
            if event.act == "seed":
                return {self._parts.controls["seed"]: job.specs[index].seed, self._parts.randomize: False}
            if event.act == "input":
                return self._begins_with(job, index, given, fits=event.fits == "true")
            cards = await served_models(self._client)
            data, notes = settings_here(job.specs[index], cards)
            return await self._restored(cards, data, " ".join(["Settings restored.", *notes]), given, owner)
        except DarkroomError as error:
            return {self._parts.message: problem(error)}

    def on_extended(self, given: Update, event: gr.EventData) -> Update:
        """Begin with an image that was extended, and make anew what is new of it, at the size that the image has."""
        values = {"init.input": event.image, "init.mask": event.mask, "init.area": "masked", "init.strength": 1.0}
        return self._begun(values, given, EXTENDED)

    async def on_mask(self, mask: str | None, area: str, strength: float, model: str | None) -> Any:
        """Take back what an extension has set, once its mask has gone: nothing is made around a mask without one."""
        if mask or area != "masked":
            return gr.skip()
        card = card_of(await served_models(self._client), model)
        usual = card.member_defaults["init.strength"] if strength == 1 else strength
        return {self._parts.controls["init.area"]: "whole", self._parts.controls["init.strength"]: usual}

    async def on_picture(self, given: Update, request: gr.Request) -> Update:
        """Fill the form with the settings that a picture's file carries. The file is read once, and its place empty."""
        emptied: Update = {self._parts.picture: None}
        path = given[self._parts.picture]["path"]
        cards = await served_models(self._client)
        try:
            data, notes = await asyncio.to_thread(_settings_in, path, cards)
            words = " ".join(["Settings restored from the picture.", *notes])
            return await self._restored(cards, data, words, given, owner_of(request)) | emptied
        except DarkroomError as error:
            return {self._parts.message: problem(error)} | emptied

    async def usable(
        self, cards: list[ModelCard], data: Mapping[str, Any], owner: str
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the settings that an owner can use with the models served, and notes on others. Raises Unavailable."""
        init = data.get("init")
        try:
            for name in (init["input"], init.get("mask")) if init else ():
                if name is not None:
                    await self._client.input(name, owner)
        except InputNotFound:
            kept, notes = usable(cards, {name: value for name, value in data.items() if name != "init"})
            return kept, [*notes, LOST]
        return usable(cards, data)

    def _begins_with(self, job: Job, index: int, given: Update, *, fits: bool) -> Update:
        """`fits` says that the picture is as large as the image of the form, whose mask then stays."""
        name = next(image.name for image in job.images if image.index == index)
        opened: Update = {self._parts.sections["init"]: gr.update(open=True)}
        if fits or not given[self._parts.controls["init.mask"]]:
            return opened | self._begun({"init.input": name}, given, BEGINS)
        return opened | self._begun({"init.input": name, "init.mask": None}, given, f"{BEGINS} {MASK_REMOVED}")

    def _begun(self, values: Mapping[str, Any], given: Update, words: str) -> Update:
        """Another image to begin with, in the form. What was there can come back."""
        ui = self._parts.controls
        before = {str(ui[path].elem_id): given[ui[path]] for path in BEGIN}
        begun: Update = {ui[path]: value for path, value in values.items()}
        return begun | {self._parts.message: status.replaced(before, words)}

    async def _restored(
        self, cards: list[ModelCard], data: Mapping[str, Any], words: str, given: Update, owner: str
    ) -> Update:
        """The form with settings of an image, and what could not be restored. The form as it was can come back."""
        kept, notes = await self.usable(cards, data, owner)
        words = " ".join([words, *notes])
        return self._parts.filled(cards, kept) | {
            self._parts.message: status.replaced(self._parts.values(given), words)
        }


def _settings_in(path: str, cards: list[ModelCard]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings that an uploaded file names, of one image in the file's own format, and notes on others.

    Raises:
        InvalidRequest: it was not uploaded, is no picture, or has no settings.
    """
    content = read_once(path)
    found, notes = png_info.read(content, cards)
    return {"num_images": 1, "output_format": format_of(content)} | found, notes
