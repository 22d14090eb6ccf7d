"""The page: what a click does; what stands where is in `layout`. It keeps no work of its own: jobs live elsewhere."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import gradio as gr

from deployments.dispatcher.client import DispatcherClient
from deployments.errors import JobEnded
from deployments.jobs import Job
from deployments.schema import RANDOM_SEED
from gradio_ingress import controls, status
from gradio_ingress.adapter_events import AdapterEvents
from gradio_ingress.client_api import ClientApi
from gradio_ingress.layout import Layout, Update, card_of, job_list, problem
from gradio_ingress.lookups import served_models, shared_job
from gradio_ingress.page_auth import owner_of
from gradio_ingress.page_state import LISTED_JOBS, PageState, newest_jobs
from gradio_ingress.restored import settings_here
from gradio_ingress.reuse import BEGIN, Reuse
from models.errors import DarkroomError
from models.model_card import ModelCard

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

RETRY_INTERVAL_S = 1.0
MORE_JOBS = 48  # that "Show more" adds
UNCHANGED: Any = gr.skip()  # a generator that ends without a yield would empty all of its outputs
WORDS = ("prompt", "negative_prompt", "prompt_syntax", "style", "model")  # what decides how much of a prompt is read


class Page:
    """The page over a client of the Dispatcher: `blocks`, which Gradio serves, `client_api` for Gradio's clients."""

    def __init__(self, client: DispatcherClient, public_url: str | None = None) -> None:
        self._client = client
        self._states: dict[str, PageState] = {}  # of the pages that are being rendered, by Gradio's session
        with gr.Blocks(title="Darkroom", analytics_enabled=False, delete_cache=(3600, 3600)) as self.blocks:
            self.parts = Layout()
            self.reuse = Reuse(client, self.parts)
            self._connect()
            self.client_api = ClientApi(client, self.blocks, public_url)
            self.client_api.add()

    def _connect(self) -> None:
        """Values come as they were typed (`preprocess=False`): the schema judges them, in its own words."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
        parts = self.parts
        ui: Any = parts.controls  # whose components' events Gradio makes at run time
        form: set[Any] = {*parts.form}
        request = {*form, parts.listed}
        job_parts, fitted = parts.of_jobs, parts.of_model
        self._connect_browser()
        draft = f"() => darkroom.draft({parts.form_ids})"
        opened = self.blocks.load(self.on_load, form, [*fitted, parts.status, parts.generate], js=draft, **quiet)
        opened.then(self.on_return, None, job_parts, **quiet)  # on its own: it goes on while people fill in the form
        parts.generate.click(self.on_generate, request, job_parts, **quiet, trigger_mode="multiple")
        parts.cancel.click(self.on_cancel, None, parts.message, **quiet)
        parts.mine.click(self.on_mine, None, job_parts, **quiet, trigger_mode="multiple")
        parts.mine.input(self.on_news, parts.listed, job_parts, **quiet, trigger_mode="multiple")  # see `page.js`
        parts.examples.click(self.on_example, request, [*job_parts, ui["prompt"]], **quiet, trigger_mode="multiple")
        parts.message.click(self.on_undo, form, fitted, **quiet)
        parts.gallery.click(self.reuse.on_reuse, form, fitted, **quiet)
        parts.aspects.click(
            self.on_aspect, {ui["width"], ui["height"], ui["model"]}, [ui["width"], ui["height"]], **quiet
        )
        begin = [ui[path] for path in BEGIN]
        ui["init.input"].select(self.reuse.on_extended, {*begin}, [*begin, parts.message], **quiet)
        extended = [ui["init.area"], ui["init.strength"]]
        masked = [ui["init.mask"], *extended, ui["model"]]
        ui["init.mask"].change(self.reuse.on_mask, masked, extended, **quiet, trigger_mode="always_last")
        parts.picture.upload(self.reuse.on_picture, {parts.picture, *form}, [*fitted, parts.picture], **quiet)
        ui["model"].input(self.on_model, form, fitted, **quiet, trigger_mode="always_last")
        ui["style"].change(self.on_style, ui["style"], ui["style"], **quiet, trigger_mode="always_last")
        words: Any = {ui[name] for name in WORDS}
        # One listener, so that its calls are in order: of four, the last to end might have begun first.
        # An event that was refused may have been one of them: the first that is accepted then brings another.
        changes = [*(ui[name].change for name in WORDS), parts.connection.input]
        gr.on(changes, self.on_words, words, parts.tokens, **quiet, trigger_mode="always_last")
        AdapterEvents(self._client, parts).connect(**quiet, trigger_mode="always_last")

    def _connect_browser(self) -> None:
        """What needs no server. It comes first: Gradio runs the listeners of an event in order, each to its end."""
        here: dict[str, Any] = {"fn": None, "show_progress": "hidden", "api_visibility": "private"}
        parts = self.parts
        form: list[Any] = parts.form
        gr.on(
            [control.change for control in form],
            inputs=form,
            outputs=parts.message,
            js=f"(...values) => darkroom.changed({parts.form_ids}, values)",
            **here,
        )
        gr.on(
            [parts.mine.click, parts.cancel.click], outputs=parts.message, js="() => darkroom.dismissMessage()", **here
        )
        seed: Any = parts.controls["seed"]
        is_random = f"(seed) => seed == null || seed === {RANDOM_SEED}"  # emptied, or typed as other tools have it
        seed.input(inputs=seed, outputs=parts.randomize, js=is_random, **here)

    async def on_load(self, given: Update, request: gr.Request) -> AsyncGenerator[Update]:
        """Fit the page to the models served, as soon as there are any; until then say what it waits for.

        `given` is the form as it was left in this tab, None for each control of a tab that is new.
        """
        waiting: Update = {self.parts.status: status.note(status.STARTING, "starting")}
        prompt = self.parts.controls["prompt"]
        if given[prompt]:
            yield {prompt: given[prompt]}  # now, and not over what is typed later
        while True:
            asking = asyncio.create_task(self._client.models())
            try:
                while not (await asyncio.wait({asking}, timeout=RETRY_INTERVAL_S))[0]:
                    yield waiting
                cards = asking.result()
                break
            except DarkroomError:  # not there yet: that is what the page says
                yield waiting
                await asyncio.sleep(RETRY_INTERVAL_S)
            finally:
                asking.cancel()
        yield await self._opened(cards, given, request) | {self.parts.generate: gr.update(interactive=True)}

    async def _opened(self, cards: list[ModelCard], given: Update, request: gr.Request) -> Update:
        """The form as it was left in this tab; if it has no prompt, as the job of the address, if there is one."""
        draft = {name: value for name, value in self._read(given).items() if value is not None}
        if not draft.get("prompt") and "job" in request.query_params:
            owner = owner_of(request)
            try:
                job = await shared_job(self._client, request.query_params["job"], owner)
                data, notes = settings_here(job.specs[0], cards, len(job.specs))
                values, others = await self.reuse.usable(cards, data, owner)
            except DarkroomError as error:  # `on_return` shows what is wrong with the address
                logger.info("the form is not filled from the address: %s", error.message)
            else:
                message = status.note(" ".join([*notes, *others])) if notes or others else ""
                return self.parts.filled(cards, values | {"seed": None}) | {self.parts.message: message}
        return self.parts.drafted(cards, draft, given[self.parts.randomize])

    async def on_return(self, request: gr.Request) -> AsyncGenerator[Update]:
        """Show the job that the address names, else one of the browser's own that has not ended."""
        async with aclosing(self.on_news(LISTED_JOBS, request, time.time())) as updates:
            async for update in updates:
                yield update

    async def on_news(self, listed: int, request: gr.Request, back: float | None = None) -> AsyncGenerator[Update]:
        """List and follow what another tab of the browser has begun. This one goes on with the job of its address."""
        state, shared = PageState(self._client, owner_of(request), int(listed)), request.query_params.get("job")
        try:
            if shared:
                state.select(await shared_job(self._client, shared, state.owner))
        except DarkroomError as error:
            state.problem = error
        if (rendered := self._states.get(_session(request))) is not None:
            await rendered.load_jobs()
            yield UNCHANGED
            return
        async with aclosing(self._render(state, request, back if shared else None)) as updates:
            async for update in updates:
                yield update

    async def on_generate(self, given: Update, request: gr.Request) -> AsyncGenerator[Update]:
        """Queue what the form asks for and show the job until it has ended. Leaving the page does not end the job."""
        data = self._read(given)
        if given[self.parts.randomize]:
            del data["seed"]
        async with aclosing(self._generate(data, {}, request, int(given[self.parts.listed]))) as updates:
            async for update in updates:
                yield update

    async def on_example(self, given: Update, request: gr.Request, event: gr.EventData) -> AsyncGenerator[Update]:
        """Generate an example, and put its prompt into the form, whose other controls stay as they are.

        An example has its own seed this once, unless the form's is fixed.
        """
        prompt = self.parts.controls["prompt"]
        data, typed = self._read(given), given[prompt] or ""
        examples = controls.examples(card_of(await served_models(self._client), data["model"]))
        example = examples[int(event.index)]
        if given[self.parts.randomize]:
            del data["seed"]
        else:
            example.pop("seed", None)
        shown: Update = {prompt: example["prompt"]}
        if controls.is_typed(typed, examples):
            shown[self.parts.message] = status.replaced({"prompt": typed})
        elif typed.strip():  # another example's: what that one has replaced can still be brought back
            shown[self.parts.message] = gr.skip()
        async with aclosing(self._generate(data | example, shown, request, int(given[self.parts.listed]))) as updates:
            async for update in updates:
                yield update

    async def on_undo(self, given: Update, event: gr.EventData) -> Update:
        """Bring back what an example, or the settings of a picture, have replaced, and keep what was made of those."""
        cards, before = await served_models(self._client), json.loads(event.form)
        now = {name: value for name, value in self.parts.values(given).items() if name in before}
        examples = controls.examples(card_of(cards, given[self.parts.controls["model"]]))
        is_typed = controls.is_typed(given[self.parts.controls["prompt"]], examples)
        message = status.replaced(now, "What you had is back.") if is_typed else ""
        return self.parts.undone(cards, before) | {self.parts.message: message}

    async def on_mine(self, request: gr.Request, event: gr.EventData) -> AsyncGenerator[Update]:
        """Select one of the browser's own jobs, end it, or list more of them."""
        owner, listed = owner_of(request), int(event.listed)
        try:
            if event.act == "more":
                yield await self._list_more(listed + MORE_JOBS, event.job, request)
                return
            if event.act == "cancel":
                await self._end(event.job, owner)
                state = self._states.get(_session(request))
                if state is not None and state.selected is not None and state.selected.id != event.job:
                    yield UNCHANGED  # people go on looking at the selected job; the list shows what has ended
                    return
            job = await self._client.job(event.job, owner)
        except DarkroomError as error:
            yield self._problem(error)
            return
        async with aclosing(self._select(job, request, listed)) as updates:
            async for update in updates:
                yield update

    async def on_cancel(self, request: gr.Request) -> Any:
        """End the selected job; the page that follows it sees that it has ended."""
        state = self._states.get(_session(request))
        try:
            if state is not None and state.selected is not None:
                await self._end(state.selected.id, owner_of(request))
        except DarkroomError as error:
            return self._problem(error)
        return UNCHANGED

    async def on_model(self, given: Update) -> Update:
        """Fit the page to another model. What somebody chose stays, if that model allows it."""
        return self.parts.refitted(await served_models(self._client), given)

    async def on_style(self, style: str) -> Any:
        """Say which words a style adds."""
        return gr.update(info=controls.style_info(style))

    async def on_words(self, given: Update) -> str:
        """Count the tokens of what is typed, and quote what the model will not read."""
        values = {name: given[self.parts.controls[name]] for name in WORDS}
        try:
            return status.tokens(*await self._client.tokens(controls.to_request(values)))
        except DarkroomError:  # nothing typed yet, or too much: Generate reports it
            return ""

    async def on_aspect(self, given: Update, event: gr.EventData) -> Update:
        """Give the picture another shape of about the same area, or swap its sides."""
        width, height = self.parts.controls["width"], self.parts.controls["height"]
        if event.act == "swap":
            return {width: given[height], height: given[width]}
        card = card_of(await served_models(self._client), given[self.parts.controls["model"]])
        chosen = controls.aspects(card)[event.index]
        return {width: chosen[0], height: chosen[1]}

    # -- jobs

    async def _end(self, job_id: str, owner: str) -> None:
        try:
            await self._client.cancel(job_id, owner)
        except JobEnded:  # meanwhile, by itself: whoever watches it sees that
            logger.info("%s had ended before it was cancelled", job_id)

    async def _generate(
        self, data: Mapping[str, Any], shown: Update, request: gr.Request, listed: int
    ) -> AsyncGenerator[Update]:
        """Queue what request data asks for, and show the job until it has ended; `shown` once it is accepted."""
        try:
            job = await self._client.submit(controls.to_request(data), owner_of(request))
        except DarkroomError as error:
            yield self._problem(error)
            return
        yield {self.parts.message: "", self.parts.controls["seed"]: job.specs[0].seed} | shown
        async with aclosing(self._select(job, request, listed)) as updates:
            async for update in updates:
                yield update

    async def _select(self, job: Job, request: gr.Request, listed: int) -> AsyncGenerator[Update]:
        """Select a job in the state that is being rendered, if there is one; else render a new one."""
        state = self._states.get(_session(request))
        if state is not None:
            state.select(job)
            yield UNCHANGED
            return
        state = PageState(self._client, owner_of(request), listed)
        state.select(job)
        async with aclosing(self._render(state, request)) as updates:
            async for update in updates:
                yield update

    async def _list_more(self, listed: int, selected: str, request: gr.Request) -> Update:
        """List so many of the browser's own jobs, in the state that is being rendered, if there is one."""
        jobs = await newest_jobs(self._client, owner_of(request), listed + 1)
        state = self._states.get(_session(request))
        if state is None:
            return {self.parts.mine: job_list(jobs, listed, selected), self.parts.listed: listed}
        state.list_jobs(jobs, listed)
        return {self.parts.listed: listed}

    async def _render(self, state: PageState, request: gr.Request, back: float | None = None) -> AsyncGenerator[Update]:
        """Render a state until all its jobs have ended; a page has one at a time. Unchanged components are left out."""
        before: Update = {}
        self._states[_session(request)] = state
        try:
            async with aclosing(state.changes()) as changes:
                async for _ in changes:
                    now = self.parts.shown(state, back)
                    yield {part: shown for part, shown in now.items() if before.get(part) != shown or _fragile(shown)}
                    before = now
        finally:
            if self._states.get(_session(request)) is state:
                del self._states[_session(request)]

    def _read(self, given: Update) -> dict[str, Any]:
        """Return the request data of the form."""
        return controls.read({path: given[control] for path, control in self.parts.controls.items()})

    def _problem(self, error: DarkroomError) -> Update:
        """Why what somebody asked for was not done. It stays until they do something about it: see `page.js`."""
        return {self.parts.message: problem(error)}


def _fragile(shown: Any) -> bool:
    """Whether Gradio's front end may lose this if the next message, close behind, leaves it out: properties."""
    return isinstance(shown, dict)


def _session(request: gr.Request) -> str:
    return request.session_hash or ""
