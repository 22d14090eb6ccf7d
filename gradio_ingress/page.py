"""The page: what stands where, and what happens on a click. It keeps no work of its own: jobs live in the cluster."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from deployments.dispatcher.client import DispatcherClient
from deployments.schema import Job
from gradio_ingress import controls, pictures, png_info, status
from gradio_ingress.board import Board
from gradio_ingress.program import add_generate
from gradio_ingress.visitors import owner_of
from models.errors import DarkroomError, InvalidRequest, JobEnded
from models.spec import ImageSpec, ModelCard

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

Update = dict[Block, Any]

ASK_AGAIN_S = 1.0
BESIDE = ("style", "num_images")  # what people choose often; the rest of the schema is in "Advanced"
WORDS = ("prompt", "negative_prompt", "style", "model")  # what decides how much of a prompt is read
CLICKED = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) trigger("click", {...button.dataset});
});
"""


class Page:
    """The page over a client of the Dispatcher; `blocks` is what Gradio serves."""

    def __init__(self, client: DispatcherClient) -> None:
        self._client = client
        self._boards: dict[str, Board] = {}  # of the pages that are being drawn, by Gradio's session
        with gr.Blocks(title="Darkroom", analytics_enabled=False, delete_cache=(3600, 3600)) as self.blocks:
            self.controls: dict[str, Component] = {}
            self._lay_out()
            self._connect()
            add_generate(client)

    # -- what stands where

    def _lay_out(self) -> None:
        with gr.Column(elem_id="page"):
            with gr.Column(elem_id="masthead"):
                gr.HTML(status.masthead(), padding=False, js_on_load=None)
                self.notice = gr.HTML("", elem_id="notice", padding=False, js_on_load=None)
            with gr.Column(elem_id="compose"):
                self._compose()
            with gr.Column(elem_id="stage"):
                self._stage()
            with gr.Column(elem_id="settings"):
                self._settings()

    def _compose(self) -> None:
        self._control("prompt", lines=3, max_lines=8, autofocus=True, placeholder=self._placeholder())
        self.tokens = gr.HTML("", elem_id="tokens", padding=False, js_on_load=None)
        with gr.Row(elem_id="actions"):
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate", interactive=False)
            self.cancel = gr.Button("Cancel", elem_id="cancel", visible=False)
        self.examples = gr.HTML("", elem_id="examples", padding=False, js_on_load=CLICKED)

    def _stage(self) -> None:
        told = "watch('value', () => darkroom.told(element)); darkroom.told(element);"
        waiting = status.note(status.STARTING, "starting")
        self.status = gr.HTML(waiting, elem_id="status", padding=False, js_on_load=told)
        self.gallery = gr.HTML(pictures.empty(), elem_id="gallery", padding=False, js_on_load=CLICKED)
        with gr.Accordion("Why am I waiting?", open=False, visible=False, elem_id="why") as self.why_box:
            self.why = gr.HTML("", padding=False, js_on_load=None)
        with gr.Accordion("Receipt", open=False, visible=False, elem_id="receipt") as self.receipt_box:
            self.receipt = gr.HTML("", padding=False, js_on_load=None)
        with gr.Accordion("My jobs", open=False, elem_id="mine"):
            self.mine = gr.HTML(status.my_jobs((), None, 0), padding=False, js_on_load=CLICKED)

    def _settings(self) -> None:
        with gr.Row(elem_id="beside"):
            for name in BESIDE:
                self._control(name)
        self.aspects = gr.HTML("", elem_id="aspects", padding=False, js_on_load=CLICKED)
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self._seed()
            for name in controls.FIELDS:
                if name not in self.controls:
                    self._control(name)
        with gr.Accordion("PNG info", open=False, elem_id="png-info"):
            self.picture = gr.File(
                label="Drop a picture to restore its settings",
                file_types=[".png", ".jpg", ".jpeg", ".webp"],
                type="filepath",
                height=120,
                elem_id="picture",
            )

    def _seed(self) -> None:
        with gr.Row(elem_id="seeds"):
            self._control("seed")
            self.randomize = gr.Checkbox(
                True, label="Randomize", info="A new seed for each picture.", elem_id="randomize"
            )

    def _control(self, name: str, **looks: Any) -> None:
        self.controls[name] = controls.create(name, **looks)

    @staticmethod
    def _placeholder() -> str:
        return next(iter(controls.FIELDS["prompt"].examples or ()), "")

    # -- what happens on a click

    def _connect(self) -> None:
        """Values come as they were typed (`preprocess=False`): the schema judges them, in its own words."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
        ui: Any = self.controls  # whose components' events Gradio makes at run time
        form = {*self.controls.values(), self.randomize}
        drawn: list[Any] = [self.status, self.why_box, self.why, self.gallery, self.receipt_box, self.receipt]
        drawn += [self.mine, self.cancel, self.controls["seed"]]
        fitted = [*self.controls.values(), self.randomize, self.notice, self.examples, self.aspects]
        run: dict[str, Any] = {"fn": self.on_generate, "inputs": form, "outputs": drawn, **quiet}
        opened = self.blocks.load(self.on_load, None, [*fitted, self.status, self.generate], **quiet)
        opened.then(self.on_return, None, drawn, **quiet)  # on its own: it goes on while people fill in the form
        self.generate.click(**run, trigger_mode="multiple")
        self.cancel.click(self.on_cancel, None, self.status, **quiet)
        self.mine.click(self.on_mine, None, drawn, **quiet, trigger_mode="multiple")
        self.examples.click(self.on_example, ui["model"], fitted, **quiet).success(**run, trigger_mode="multiple")
        self.gallery.click(self.on_reuse, None, [*fitted, self.status], **quiet)
        self.aspects.click(
            self.on_aspect, {ui["width"], ui["height"], ui["model"]}, [ui["width"], ui["height"]], **quiet
        )
        self.picture.upload(
            self.on_picture, self.picture, [*fitted, self.status], show_progress="hidden", api_visibility="private"
        )
        ui["model"].input(self.on_model, ui["model"], fitted, **quiet, trigger_mode="always_last")
        ui["style"].input(self.on_style, ui["style"], ui["style"], **quiet, trigger_mode="always_last")
        ui["seed"].input(None, None, self.randomize, js="() => false", api_visibility="private")
        words: Any = {ui[name] for name in WORDS}
        for name in WORDS:
            ui[name].change(self.on_words, words, self.tokens, **quiet, trigger_mode="always_last")

    async def on_load(self, request: gr.Request) -> AsyncGenerator[Update]:
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
        yield await self._reopened(cards, request) | {self.generate: gr.update(interactive=True)}

    async def _reopened(self, cards: list[ModelCard], request: gr.Request) -> Update:
        """The form as somebody left it who comes back to a job, else as the model prefers."""
        try:
            job = await self._find(request.query_params["job"], owner_of(request))
        except (KeyError, DarkroomError):  # `on_return` says what is wrong with the address
            return self._fitted(cards, cards[0])
        return self._filled(cards, _settings(job.specs[0], len(job.specs)) | {"seed": None})

    async def on_return(self, request: gr.Request) -> AsyncGenerator[Update]:
        """Show the job that the address names, else one of the browser's own that has not ended."""
        board, shared = Board(self._client, owner_of(request)), request.query_params.get("job")
        try:
            if shared:
                board.show(await self._find(shared, board.owner))
        except DarkroomError as error:
            board.problem = error
        if _session(request) in self._boards:  # somebody was quicker with another picture
            return
        async with aclosing(self._draw(board, request, back=time.time() if shared else None)) as updates:
            async for update in updates:
                yield update

    async def on_generate(self, given: Update, request: gr.Request) -> AsyncGenerator[Update]:
        """Queue what the form asks for and show the job until it has ended. Leaving the page does not end the job."""
        values = {name: given[control] for name, control in self.controls.items()}
        if given[self.randomize]:
            del values["seed"]
        try:
            job = await self._client.submit(controls.to_request(values), owner_of(request))
        except DarkroomError as error:
            yield self._problem(error, request)
            return
        yield {self.controls["seed"]: job.specs[0].seed}
        async with aclosing(self._staged(job, request)) as updates:
            async for update in updates:
                yield update

    async def on_mine(self, request: gr.Request, event: gr.EventData) -> AsyncGenerator[Update]:
        """Bring back one of the browser's own jobs, or end it."""
        try:
            if event.act == "cancel":
                await self._end(event.job, owner_of(request))
            job = await self._client.job(event.job, owner_of(request))
        except DarkroomError as error:
            yield self._problem(error, request)
            return
        async with aclosing(self._staged(job, request)) as updates:
            async for update in updates:
                yield update

    async def on_cancel(self, request: gr.Request) -> Any:
        """End the job on the stage; the page that watches it sees that it has ended."""
        board = self._boards.get(_session(request))
        try:
            if board is not None and board.shown is not None:
                await self._end(board.shown.id, owner_of(request))
        except DarkroomError as error:
            return self._problem(error, request)
        return gr.skip()

    async def on_model(self, model: str) -> Update:
        """Fit the page to another model."""
        cards = await self._cards()
        return self._fitted(cards, _card(cards, model))

    async def on_style(self, style: str) -> Any:
        """Say which words a style adds."""
        return gr.update(info=controls.style_info(style))

    async def on_words(self, given: Update) -> str:
        """Count the tokens of what is typed, and quote what the model will not read."""
        values = {name: given[self.controls[name]] for name in WORDS}
        try:
            return status.tokens(*await self._client.tokens(controls.to_request(values)))
        except DarkroomError:  # nothing typed yet, or too much: Generate says so
            return ""

    async def on_aspect(self, given: Update, event: gr.EventData) -> Update:
        """Give the picture another shape of about the same area, or swap its sides."""
        width, height = self.controls["width"], self.controls["height"]
        if event.act == "swap":
            return {width: given[height], height: given[width]}
        card = _card(await self._cards(), given[self.controls["model"]])
        chosen = controls.aspects(card)[event.index]
        return {width: chosen[0], height: chosen[1]}

    async def on_example(self, model: str, event: gr.EventData) -> Update:
        """Fill the form with an example; generating follows."""
        cards = await self._cards()
        card = _card(cards, model)
        example = card.examples[int(event.index)]
        return self._filled(cards, controls.fill(example, card) | {"model": card.id, "seed": example.get("seed")})

    async def on_reuse(self, request: gr.Request, event: gr.EventData) -> Update:
        """Put a picture's seed, or all that it was made of, back into the form."""
        try:
            spec = (await self._find(event.job, owner_of(request))).specs[int(event.index)]
        except DarkroomError as error:
            return self._problem(error, request)
        if event.act == "seed":
            return {self.controls["seed"]: spec.seed, self.randomize: False}
        return self._restored(await self._cards(), _settings(spec), "Settings restored.", request)

    async def on_picture(self, path: str, request: gr.Request) -> Update:
        """Fill the form with the settings that a picture's file carries."""
        try:
            found, notes = await asyncio.to_thread(lambda: png_info.read(Path(path).read_bytes()))
        except InvalidRequest as error:
            return self._problem(error, request)
        cards, (values, refused) = await self._cards(), controls.usable(found)
        words = " ".join(["Settings restored from the picture.", *notes, *refused])
        return self._restored(cards, {"num_images": 1, **values}, words, request)

    # -- jobs

    async def _find(self, shared: str, owner: str) -> Job:
        """Return the job that a link names: `id.secret`. Raises: NotFound, Gone."""
        job_id, _, link = shared.partition(".")
        return await self._client.job(job_id, owner, link)

    async def _end(self, job_id: str, owner: str) -> None:
        try:
            await self._client.cancel(job_id, owner)
        except JobEnded:  # meanwhile, by itself: whoever watches it sees that
            logger.info("%s had ended before it was cancelled", job_id)

    async def _staged(self, job: Job, request: gr.Request) -> AsyncGenerator[Update]:
        """Put a job on the stage: of the board that is being drawn, if one is; else draw one."""
        board = self._boards.get(_session(request))
        if board is not None:
            board.show(job)
            return
        board = Board(self._client, owner_of(request))
        board.show(job)
        async with aclosing(self._draw(board, request)) as updates:
            async for update in updates:
                yield update

    async def _draw(self, board: Board, request: gr.Request, back: float | None = None) -> AsyncGenerator[Update]:
        """Show a board until all its jobs have ended; a page has one at a time. What has not changed is left alone."""
        drawn: Update = {}
        self._boards[_session(request)] = board
        try:
            async with aclosing(board.changes()) as changes:
                async for _ in changes:
                    now = self._shown(board, back)
                    yield {part: shown for part, shown in now.items() if drawn.get(part) != shown or _fragile(shown)}
                    drawn = now
        finally:
            if self._boards.get(_session(request)) is board:
                del self._boards[_session(request)]

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
        shapes = status.aspects(controls.aspects(card))
        examples = status.examples(card.examples)
        return fitted | {self.notice: status.notice(card.notice), self.examples: examples, self.aspects: shapes}

    def _filled(self, cards: list[ModelCard], values: Mapping[str, Any]) -> Update:
        """The form fitted to a model, with some of its values given; a seed that is given is kept."""
        fitted = self._fitted(cards, _card(cards, values.get("model")))
        kept = {name: value for name, value in values.items() if name not in ("model", "seed")}
        filled: Update = {self.controls[name]: value for name, value in kept.items()}
        if values.get("seed") is not None:
            filled |= {self.controls["seed"]: values["seed"], self.randomize: False}
        both = {control: fitted.get(control, gr.update()) | {"value": value} for control, value in filled.items()}
        return fitted | both

    def _restored(self, cards: list[ModelCard], values: Mapping[str, Any], words: str, request: gr.Request) -> Update:
        """The form with a picture's settings, and what could not be restored of them."""
        model = values.get("model")
        if model is not None and model not in (card.id for card in cards):
            words += f" Model “{model}” is not served here."
        return self._filled(cards, values) | self._said(status.note(words), request)

    def _shown(self, board: Board, back: float | None) -> Update:
        job = board.shown
        mine = status.my_jobs(board.own, job.id if job else None, time.time())
        said = board.said or (self._worded(board.problem) if board.problem else None)
        if job is None:
            return {self.status: said or status.note(status.READY), self.mine: mine}
        own = job.owner == board.owner
        waits = not job.ended and board.queue is not None
        return {
            self.status: said or status.status(job, board.queue, back=back),
            self.why_box: gr.update(visible=waits),
            self.why: status.why(job, board.own, board.queue) if waits and board.queue else "",
            self.gallery: pictures.gallery(job),
            self.receipt_box: gr.update(visible=bool(job.images)),
            self.receipt: pictures.receipts(job),
            self.mine: mine,
            self.cancel: gr.update(visible=own and not job.ended and board.problem is None),
        }

    def _problem(self, error: DarkroomError, request: gr.Request) -> Update:
        return self._said(self._worded(error), request)

    def _said(self, note: str, request: gr.Request) -> Update:
        """Put words where the status is; on a page that is being drawn they stay until its job is in another state."""
        board = self._boards.get(_session(request))
        if board is not None:
            board.say(note)
        return {self.status: note}

    @staticmethod
    def _worded(error: DarkroomError) -> str:
        return status.note(controls.in_page_words(error.message, error.param), "problem", error.param)


def _fragile(shown: Any) -> bool:
    """Whether Gradio's front end may lose this if the next message, close behind, leaves it out: properties."""
    return isinstance(shown, dict)


def _session(request: gr.Request) -> str:
    return request.session_hash or ""


def _settings(spec: ImageSpec, num_images: int = 1) -> dict[str, Any]:
    """Return what the form shows of a picture, or so many. A style's words are in the prompt already."""
    shown = {name: getattr(spec, name) for name in controls.FIELDS if hasattr(spec, name)}
    return shown | {"style": controls.OPEN, "num_images": min(num_images, controls.greatest("num_images"))}


def _card(cards: list[ModelCard], model: str | None) -> ModelCard:
    """The chosen model, or the first where the chosen one is served no more."""
    return next((card for card in cards if card.id == model), cards[0])
