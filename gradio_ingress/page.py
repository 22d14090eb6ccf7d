"""The page: what stands where, and what happens on a click. It keeps no work of its own: jobs live in the cluster."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from gradio.components import Component

from deployments.dispatcher.client import DispatcherClient
from deployments.schema import Job
from gradio_ingress import controls, status
from models.errors import DarkroomError, JobEnded
from models.spec import ModelCard

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

Update = dict[Component, Any]

ASK_AGAIN_S = 1.0
BESIDE = ("style", "num_images")  # what people choose often; the rest of the schema is in "Advanced"
CLICKED = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-index]");
  if (button) trigger("click", {index: Number(button.dataset.index)});
});
"""


def theme() -> gr.themes.Base:
    """Return the page's colours and type: paper and safelight. No font comes from elsewhere."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.orange,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=[
            gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)),
            "system-ui",
            "sans-serif",
        ],  # its 600 lacks letters
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        slider_color="*primary_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
    )


def owner_of(request: gr.Request) -> str:
    """Return whose jobs a browser may see and end; without cookies, a tab's."""
    return request.state.owner or f"browser:{request.session_hash}"


class Page:
    """The page over a client of the Dispatcher; `blocks` is what Gradio serves."""

    def __init__(self, client: DispatcherClient) -> None:
        self._client = client
        with gr.Blocks(title="Darkroom", analytics_enabled=False) as self.blocks:
            self.controls: dict[str, Component] = {}
            self._lay_out()
            self._connect()

    # -- what stands where

    def _lay_out(self) -> None:
        with gr.Column(elem_id="page"):
            with gr.Column(elem_id="masthead"):
                gr.HTML(status.masthead(), padding=False, js_on_load=None)
                self.notice = gr.HTML("", elem_id="notice", padding=False, js_on_load=None)
            with gr.Column(elem_id="compose"):
                self._compose()
            with gr.Column(elem_id="stage"):
                self.status = gr.HTML(status.note(status.STARTING, "starting"), padding=False, js_on_load=None)
                self.gallery = gr.HTML(status.empty_gallery(), elem_id="gallery", padding=False, js_on_load=None)
            with gr.Column(elem_id="settings"):
                self._settings()
        self.job_id = gr.State("")

    def _compose(self) -> None:
        prompt = self._control("prompt", lines=3, max_lines=8, autofocus=True, placeholder=self._placeholder())
        self.controls["prompt"] = prompt
        with gr.Row(elem_id="actions"):
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate", interactive=False)
            self.cancel = gr.Button("Cancel", elem_id="cancel", visible=False)
        self.examples = gr.HTML("", elem_id="examples", padding=False, js_on_load=CLICKED)

    def _settings(self) -> None:
        with gr.Row(elem_id="beside"):
            for name in BESIDE:
                self._control(name)
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self._seed()
            for name in controls.FIELDS:
                if name not in self.controls:
                    self._control(name)

    def _seed(self) -> None:
        with gr.Row(elem_id="seeds"):
            self._control("seed")
            self.randomize = gr.Checkbox(
                True, label="Randomize", info="A new seed for each picture.", elem_id="randomize"
            )

    def _control(self, name: str, **looks: Any) -> Component:
        self.controls[name] = controls.create(name, **looks)
        return self.controls[name]

    @staticmethod
    def _placeholder() -> str:
        return next(iter(controls.FIELDS["prompt"].examples or ()), "")

    # -- what happens on a click

    def _connect(self) -> None:
        """Values come as they were typed (`preprocess=False`): the schema judges them, in its own words."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
        form = {*self.controls.values(), self.randomize}
        shown = [self.status, self.gallery, self.controls["seed"], self.job_id, self.generate, self.cancel]
        fitted = [*self.controls.values(), self.notice, self.examples]
        run: dict[str, Any] = {"fn": self.on_generate, "inputs": form, "outputs": shown, **quiet}
        self.blocks.load(self.on_load, None, [*fitted, self.status, self.generate], **quiet)
        self.generate.click(**run)
        self.cancel.click(self.on_cancel, self.job_id, self.status, **quiet)
        chosen = {self.controls["model"], self.job_id}
        self.examples.click(self.on_example, chosen, [*form], **quiet).success(**run)
        model: Any = self.controls["model"]
        model.input(self.on_model, self.controls["model"], fitted, **quiet)
        seed: Any = self.controls["seed"]
        seed.input(None, None, self.randomize, js="() => false", api_visibility="private")

    async def on_load(self) -> AsyncIterator[Update]:
        """Fit the page to the models served, as soon as there are any; until then say what it waits for."""
        waiting: Update = {self.status: status.note(status.STARTING, "starting")}
        while True:
            asking = asyncio.create_task(self._client.models())
            try:
                while not (await asyncio.wait({asking}, timeout=ASK_AGAIN_S))[0]:
                    yield waiting
                cards = asking.result()
                break
            except DarkroomError:  # not there yet: that is what the page says
                yield waiting
                await asyncio.sleep(ASK_AGAIN_S)
            finally:
                asking.cancel()
        ready = {self.status: status.note(status.READY), self.generate: gr.update(interactive=True)}
        yield self._fitted(cards, cards[0]) | ready

    async def on_model(self, model: str) -> Update:
        """Fit the page to another model."""
        cards = await self._cards()
        return self._fitted(cards, _card(cards, model))

    async def on_example(self, given: Update, event: gr.EventData) -> Update:
        """Fill the form with an example; generating follows."""
        if given[self.job_id]:
            raise gr.Error("One at a time: wait for the picture, or cancel it.", print_exception=False)
        card = _card(await self._cards(), given[self.controls["model"]])
        example = card.examples[event.index]
        filled: Update = {self.controls[name]: value for name, value in controls.fill(example, card).items()}
        if "seed" in example:
            filled |= {self.controls["seed"]: example["seed"], self.randomize: False}
        return filled

    async def on_generate(self, given: Update, request: gr.Request) -> AsyncIterator[Update]:
        """Queue what the form asks for and show the job until it has ended. Leaving the page does not end the job."""
        values = {name: given[control] for name, control in self.controls.items()}
        if given[self.randomize]:
            del values["seed"]
        try:
            job = await self._client.submit(controls.to_request(values), owner_of(request))
            async for state in self._client.watch(job.id, job.owner):
                yield self._shown(state)
        except DarkroomError as error:
            yield self._problem(error)
        except Exception:
            logger.exception("a page's job could not be shown")
            yield self._problem(DarkroomError())

    async def on_cancel(self, job_id: str, request: gr.Request) -> Update:
        """End the job in the cluster; whoever watches it sees that it has ended."""
        try:
            await self._client.cancel(job_id, owner_of(request))
        except JobEnded:
            return {}
        except DarkroomError as error:
            return {self.status: status.note(error.message, "problem")}
        return {}

    async def _cards(self) -> list[ModelCard]:
        """The models served now; where that cannot be known, Gradio shows why."""
        try:
            return await self._client.models()
        except DarkroomError as error:
            raise gr.Error(error.message, print_exception=False) from error

    # -- what is shown

    def _fitted(self, cards: list[ModelCard], card: ModelCard) -> Update:
        served = [each.id for each in cards]
        fitted: Update = {
            control: controls.fit(name, card, served) for name, control in self.controls.items() if name != "prompt"
        }
        return fitted | {self.notice: status.notice(card.notice), self.examples: status.examples(card.examples)}

    def _shown(self, job: Job) -> Update:
        return {
            self.status: status.status(job),
            self.gallery: status.gallery(job),
            self.controls["seed"]: job.specs[0].seed,
            **self._busy("" if job.ended else job.id),
        }

    def _problem(self, error: DarkroomError) -> Update:
        words = controls.in_page_words(error.message, error.param)
        return {self.status: status.note(words, "problem"), **self._busy("")}

    def _busy(self, job_id: str) -> Update:
        """The buttons, with a job in the making or none."""
        busy = bool(job_id)
        return {
            self.job_id: job_id,
            self.generate: gr.update(interactive=not busy),
            self.cancel: gr.update(visible=busy),
        }


def _card(cards: list[ModelCard], model: str) -> ModelCard:
    """The chosen model, or the first where the chosen one is served no more."""
    return next((card for card in cards if card.id == model), cards[0])
