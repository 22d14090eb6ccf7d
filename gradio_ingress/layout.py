"""What stands where on the page, and what it shows of models and jobs. What a click does is in `page`."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block, BlockContext
from gradio.components import Component

from deployments.errors import InputNotFound
from deployments.jobs import Job
from deployments.schema import RANDOM_SEED
from gradio_ingress import adapter_files, controls, gallery, status
from gradio_ingress.lora_control import NAME
from gradio_ingress.page_state import LISTED_JOBS, PageState
from gradio_ingress.scalar_controls import element_id
from models.errors import DarkroomError
from models.model_card import ModelCard, find_card
from models.validation import field_of

Update = dict[Block, Any]

CONNECTION = {
    "answers": "",
    "slow": status.note(status.UNANSWERED, "starting"),
    "lost": status.note(status.DISCONNECTED, "problem"),
    "refused": status.note(status.REFUSED, "problem"),
}
HEARD = """
let last;
addEventListener("connection", ({ detail }) => {
  props.value = WORDS[detail];
  if (last === "refused" && detail === "answers") trigger("input");
  last = detail;
});
"""
BESIDE = ("style", "num_images")  # what people choose often; the rest of the schema is in "Advanced"
LIST_INTERVAL_S = 15  # between two looks at the clock of the list of jobs
CLICKED = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) trigger("click", {...button.dataset});
});
"""


class Layout:
    """The components, made inside the `gr.Blocks` that is open."""

    def __init__(self) -> None:
        self.controls: dict[str, Component] = {}  # by path
        self.sections: dict[str, BlockContext] = {}  # by the field that has one
        with gr.Column(elem_id="page"):
            with gr.Column(elem_id="masthead"):
                gr.HTML(status.masthead(), padding=False, js_on_load=None)
                self.notice = gr.HTML("", elem_id="notice", padding=False, js_on_load=None)
            with gr.Column(elem_id="compose"):
                self._compose()
            with gr.Column(elem_id="job"):
                self._selected_job()
            with gr.Column(elem_id="settings"):
                self._settings()

    def _compose(self) -> None:
        self._control("prompt", lines=3, max_lines=8, autofocus=True, placeholder=self._placeholder())
        self.tokens = gr.HTML("", elem_id="tokens", padding=False, js_on_load=None)
        self.words = gr.HTML("", elem_id="words", padding=False, js_on_load=None)
        with gr.Row(elem_id="actions"):
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate", interactive=False)
            self.cancel = gr.Button("Cancel", elem_id="cancel", visible=False)
        self.examples = gr.HTML("", elem_id="examples", padding=False, js_on_load=CLICKED)

    def _selected_job(self) -> None:
        told = HEARD.replace("WORDS", json.dumps(CONNECTION))
        self.connection = gr.HTML("", elem_id="connection", padding=False, js_on_load=told)
        changed = f"{CLICKED} watch('value', () => darkroom.messageChanged(element));"
        self.message = gr.HTML("", elem_id="message", padding=False, js_on_load=changed)
        shown = "watch('value', () => darkroom.shown(element));"
        waiting = status.note(status.STARTING, "starting")
        self.status = gr.HTML(waiting, elem_id="status", padding=False, js_on_load=shown)
        self.gallery = gr.HTML(gallery.empty(), elem_id="gallery", padding=False, js_on_load=CLICKED)
        with gr.Accordion("Why am I waiting?", open=False, visible=False, elem_id="why") as self.why_box:
            self.why = gr.HTML("", padding=False, js_on_load=None)
        with gr.Accordion("Receipt", open=False, visible=False, elem_id="receipt") as self.receipt_box:
            self.receipt = gr.HTML("", padding=False, js_on_load=None)
        with gr.Accordion("My jobs", open=False, elem_id="mine"):
            heard = f"{CLICKED} darkroom.onNews(() => trigger('input'));"
            self.mine = gr.HTML(status.my_jobs((), 0, None, 0), padding=False, js_on_load=heard)
            self.listed = gr.Number(LISTED_JOBS, visible=False, precision=0)  # how many of them the browser lists

    def _settings(self) -> None:
        with gr.Row(elem_id="beside"):
            for name in BESIDE:
                self._control(name)
        self.aspects = gr.HTML("", elem_id="aspects", padding=False, js_on_load=CLICKED)
        for name in filter(controls.is_section, controls.FIELDS):
            with gr.Accordion(controls.label(name), open=False, elem_id=f"section-{name}") as self.sections[name]:
                self._control(name)
        with gr.Accordion("Embeddings", open=False, visible=False, elem_id="embeddings") as self.embeddings_box:
            self.embeddings = gr.HTML("", padding=False, js_on_load=None)
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self._seed()
            for name in controls.FIELDS:
                if name not in self.controls and name not in self.sections:  # by path, so most nested fields are not
                    self._control(name)
        with gr.Accordion("PNG info", open=False, elem_id="png-info"):
            self.picture = gr.File(
                label="Drop a picture to restore its settings",
                file_types=[".png", ".jpg", ".jpeg", ".webp"],
                type="filepath",
                height=120,
                elem_id="picture",
            )
        with gr.Accordion("", open=False, visible=False, elem_id="unusable") as self.unusable_box:
            self.unusable = gr.HTML("", padding=False, js_on_load=None)

    def _seed(self) -> None:
        with gr.Row(elem_id="seeds"):
            self._control("seed")
            self.randomize = gr.Checkbox(
                True, label="Randomize", info="A new seed for each picture.", elem_id="randomize"
            )

    def _control(self, name: str, **looks: Any) -> None:
        self.controls |= controls.create(name, **looks)

    @staticmethod
    def _placeholder() -> str:
        return next(iter(controls.FIELDS["prompt"].examples or ()), "")

    @property
    def form(self) -> list[Component]:
        """What says which picture is wanted, in the order in which Gradio passes the values of a set."""
        return sorted([*self.controls.values(), self.randomize], key=lambda control: control._id)

    @property
    def form_ids(self) -> str:
        """The ids of the form's elements, in its order, as JavaScript."""
        return json.dumps([control.elem_id for control in self.form])

    def values(self, given: Update) -> dict[str, Any]:
        """Return what stands in the form, by the ids of its elements."""
        return {str(control.elem_id): given[control] for control in self.form}

    @property
    def of_model(self) -> list[Component | BlockContext]:
        """What depends on the model, and what is said of values that it does not allow."""
        shown = [self.notice, self.examples, self.aspects, *self.sections.values(), self.message]
        return [*self.form, *shown, *self.of_files]

    @property
    def of_files(self) -> list[Component | BlockContext]:
        """What shows the adapter files of a model, besides the controls that name them."""
        return [self.embeddings_box, self.embeddings, self.unusable_box, self.unusable]

    @property
    def of_jobs(self) -> list[Component | BlockContext]:
        """What depends on the jobs that are followed, and what becomes of a request for one."""
        boxes = [self.status, self.why_box, self.why, self.gallery, self.receipt_box, self.receipt]
        return [*boxes, self.mine, self.listed, self.cancel, self.controls["seed"], self.message]

    def fitted(self, cards: list[ModelCard], card: ModelCard) -> Update:
        """Return all but the prompt as a model prefers it, of those that are served."""
        served = [each.id for each in cards]
        fitted: Update = {
            self.controls[path]: update
            for name in controls.FIELDS
            if name != "prompt"
            for path, update in controls.fit(name, card, served).items()
        }
        shapes = status.aspects(controls.aspects(card))
        examples = status.examples([example["prompt"] for example in controls.examples(card)])
        fitted |= {self.notice: status.notice(card.notice), self.examples: examples, self.aspects: shapes}
        fitted |= {box: controls.section(name, card) for name, box in self.sections.items()}
        return fitted | self._files(card)

    @property
    def lora_names(self) -> list[Component]:
        """The controls that name LoRAs."""
        return [control for path, control in self.controls.items() if path.startswith("loras") and path.endswith(NAME)]

    def with_files(self, card: ModelCard) -> Update:
        """Return the form with the adapter files that a model has now. What is chosen stays."""
        fitted = controls.fit("loras", card)
        offered = {
            self.controls[path]: gr.update(choices=update["choices"])
            for path, update in fitted.items()
            if "choices" in update
        }
        return offered | self._files(card)

    def _files(self, card: ModelCard) -> Update:
        embeddings, unusable = adapter_files.embeddings(card), adapter_files.unusable(card)
        return {
            self.embeddings_box: gr.update(visible=bool(embeddings)),
            self.embeddings: embeddings,
            self.unusable_box: gr.update(visible=bool(unusable), label=adapter_files.title(unusable)),
            self.unusable: status.terms(unusable),
        }

    def refitted(self, cards: list[ModelCard], given: Update) -> Update:
        """Return the form fitted to the model that is chosen in it. What somebody chose stays if that model allows it,
        else the message names it.
        """
        card = card_of(cards, given[self.controls["model"]])
        fitted = self.fitted(cards, card)
        values = {path: given[self.controls[path]] for path in self.controls if path not in ("prompt", "seed")}
        kept, refused = controls.chosen(controls.read(values), card, cards)
        for path in values:
            if field_of(path) in kept:
                fitted[self.controls[path]].pop("value", None)
        return fitted | {self.message: status.note(status.left_out(refused))} if refused else fitted

    def filled(self, cards: list[ModelCard], data: Mapping[str, Any]) -> Update:
        """Return the form fitted to a model, with some of its request data given; a seed that is given is kept."""
        fitted = self.fitted(cards, card_of(cards, data.get("model")))
        kept = {name: value for name, value in data.items() if name not in ("model", "seed")}
        filled: Update = {self.controls[path]: value for path, value in controls.write(kept).items()}
        if data.get("seed") is not None:
            filled |= {self.controls["seed"]: data["seed"], self.randomize: data["seed"] == RANDOM_SEED}
        both = {control: fitted.get(control, gr.update()) | {"value": value} for control, value in filled.items()}
        opened = {box: fitted[box] | {"open": True} for name, box in self.sections.items() if data.get(name)}
        return fitted | both | opened

    def undone(self, cards: list[ModelCard], values: Mapping[str, Any]) -> Update:
        """Return the form with `values` of its elements again, as they were typed, fitted to their model if one is
        among them.
        """
        card = card_of(cards, values.get("model"))
        fitted = self.fitted(cards, card) if "model" in values else {}
        left = {control: values[str(control.elem_id)] for control in self.form if control.elem_id in values}
        if "model" in values:
            left[self.controls["model"]] = card.id  # the one that was chosen may be gone
        return fitted | {
            control: fitted.get(control, gr.update()) | {"value": value} for control, value in left.items()
        }

    def drafted(self, cards: list[ModelCard], draft: Mapping[str, Any], randomize: bool | None) -> Update:
        """Return the form as somebody left it, but its prompt. What the draft's model does not allow is as it prefers,
        and named in the message.

        `randomize` is None where nobody left a draft.
        """
        model = draft.get("model")
        card = card_of(cards, model)
        data = {name: value for name, value in draft.items() if name not in ("prompt", "seed")}
        kept, refused = controls.chosen(data, card, [card])
        form = self.filled(cards, {name: data[name] for name in kept} | {"model": card.id})
        notes = [] if find_card(cards, model) else [status.not_served(model)]
        if refused:
            notes.append(status.left_out(refused))
        if notes:
            form[self.message] = status.note(" ".join(notes))
        if randomize is not None:
            form[self.controls["seed"]] |= {"value": draft.get("seed")}
            form[self.randomize] = randomize
        return form

    def shown(self, state: PageState, back: float | None) -> Update:
        """Return the components of a page's state; `back` is the time at which somebody returned to its job."""
        job = state.selected
        mine = job_list(state.jobs, state.listed, job.id if job else None)
        lost = problem(state.problem) if state.problem else None
        if job is None:
            return {self.status: lost or status.note(status.READY), self.mine: mine}
        is_own = job.owner == state.owner
        waits = not job.ended and state.queue is not None
        return {
            self.status: lost or status.status(job, state.queue, back=back),
            self.why_box: gr.update(visible=waits),
            self.why: status.why(job, state.jobs, state.queue) if waits and state.queue else "",
            self.gallery: gallery.tiles(job, state.owner),
            self.receipt_box: gr.update(visible=bool(job.images)),
            self.receipt: gallery.receipts(job),
            self.mine: mine,
            self.cancel: gr.update(visible=is_own and not job.ended and state.problem is None),
        }


def job_list(jobs: Sequence[Job], listed: int, selected: str | None) -> str:
    """Return the list of one's own jobs. Its times change in steps only, as each change sends the whole list."""
    return status.my_jobs(jobs, listed, selected, time.time() // LIST_INTERVAL_S * LIST_INTERVAL_S)


def card_of(cards: Sequence[ModelCard], model: str | None) -> ModelCard:
    """Return the chosen model's, or the first where the chosen one is served no more."""
    return find_card(cards, model) or cards[0]


def problem(error: DarkroomError) -> str:
    """Return what went wrong, as a note that names the control at fault."""
    element = element_id(error.param) if error.param else None
    if isinstance(error, InputNotFound) and error.param:
        words = f"{controls.label(error.param)} is gone. Choose it again."  # where the API's words are of ids
    else:
        words = controls.in_page_words(error.message, error.param)
    return status.note(words, "problem", element)
