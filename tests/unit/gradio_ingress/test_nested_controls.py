"""Objects in a request have controls on the page: generated rows, or what is registered for their type."""

from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, Literal

import gradio as gr
import pytest
from gradio.components import Component
from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from deployments import schema
from deployments.schema import GenerationRequest
from gradio_ingress import controls, nested_controls
from gradio_ingress.nested_controls import NestedControl
from gradio_ingress.scalar_controls import MissingControl, element_id, label
from models.model_card import ModelCard
from tests.unit.gradio_ingress.fakes import CARD


class Adapter(BaseModel):
    name: str = Field(description="Which one.")
    weight: float = Field(1.0, ge=-2, le=2)
    note: str | None = None


class Start(BaseModel):
    input: str
    kind: Literal["low", "high"]
    tiled: bool = False


class Painting(BaseModel):
    strokes: list[int]


class Canvas(NestedControl):
    """A control that a person designed: one component for two members."""

    def __init__(self, name: str, field: FieldInfo) -> None:
        self._name = name

    def create(self) -> dict[str, Component]:
        return {self._name: gr.Textbox(elem_id=self._name)}

    def fit(self, card: ModelCard) -> dict[str, dict[str, Any]]:
        return {self._name: gr.update(value="", placeholder=card.id)}

    def read(self, values: Mapping[str, Any]) -> Any:
        text = values[self._name]
        return {"strokes": [int(part) for part in text.split()]} if text else None

    def write(self, data: Any) -> dict[str, Any]:
        return {self._name: " ".join(map(str, data["strokes"])) if data else ""}


ADAPTERS = (list[Adapter], Field([], max_length=3))


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Adds fields to those of the page."""

    def declared(**fields: Any) -> None:
        wider: Any = create_model("Wider", __base__=GenerationRequest, **fields)
        monkeypatch.setattr(controls, "FIELDS", wider.model_fields)

    return declared


def test_a_list_of_objects_has_a_row_for_each_it_may_hold(declare: Any) -> None:
    declare(adapters=ADAPTERS)
    with gr.Blocks():
        created = controls.create("adapters")
    assert list(created) == [f"adapters[{row}].{member}" for row in range(3) for member in ("name", "weight", "note")]
    weight: Any = created["adapters[1].weight"]
    assert (type(weight), weight.minimum, weight.maximum, weight.value) == (gr.Slider, -2, 2, 1.0)
    assert (weight.label, weight.elem_id) == ("Adapters, weight 2", "adapters-1-weight")
    assert created["adapters[0].name"].info == "Which one."


@pytest.mark.parametrize("annotation", [Start, Start | None])
def test_an_object_has_one_row(declare: Any, annotation: Any) -> None:
    declare(start=(annotation, None))
    with gr.Blocks():
        created: Any = controls.create("start")
    assert list(created) == ["start.input", "start.kind", "start.tiled"]
    assert created["start.kind"].choices == [("None", ""), ("Low", "low"), ("High", "high")]


@pytest.mark.parametrize(
    ("annotation", "data"),
    [
        (list[Adapter], [{"name": "a", "weight": 0.5, "note": "x"}, {"name": "b", "weight": 1.0}]),
        (tuple[Adapter, ...], [{"name": "a", "weight": 0.5}]),
        (list[Adapter] | None, None),
        (Adapter, {"name": "a", "weight": 2.0}),
        (Adapter | None, None),
    ],
)
def test_what_is_written_into_controls_is_read_from_them(declare: Any, annotation: Any, data: Any) -> None:
    declare(adapters=(annotation, Field(None, max_length=3)))
    assert controls.read(controls.write({"adapters": data, "seed": 7})) == {"adapters": data, "seed": 7}


def test_empty_rows_are_left_out_and_members_that_are_left_open_have_their_defaults(declare: Any) -> None:
    declare(adapters=ADAPTERS)
    values = controls.write({"adapters": [{"name": "a"}]})
    assert values["adapters[0].weight"] == 1.0
    assert values["adapters[1].name"] is None
    values |= {"adapters[0].name": "", "adapters[0].weight": 2, "adapters[2].name": "c", "adapters[2].note": ""}
    assert controls.read(values) == {"adapters": [{"name": "c", "weight": 1.0}]}


def test_another_model_empties_the_rows_and_keeps_what_somebody_chose(declare: Any) -> None:
    declare(adapters=ADAPTERS)
    fitted = controls.fit("adapters", CARD)
    assert controls.read({path: update["value"] for path, update in fitted.items()}) == {"adapters": None}
    assert controls.default("adapters", CARD) is None


def test_a_registered_control_takes_the_place_of_rows(declare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nested_controls.CONTROLS, Painting, Canvas)
    declare(painting=(Painting | None, None))
    controls.check_controls()
    with gr.Blocks():
        assert isinstance(controls.create("painting")["painting"], gr.Textbox)
    assert controls.fit("painting", CARD)["painting"]["placeholder"] == "shapes"
    data = {"painting": {"strokes": [1, 2]}}
    assert controls.read(controls.write(data)) == data
    assert controls.read({"painting": ""}) == {"painting": None}


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ((Painting | None, None), r"painting.strokes .* list\[int\]"),
        ((list[Adapter], Field([])), "painting .* holds Adapter.* no max_length"),
        ((create_model("Optional", name=(str, "")) | None, None), "painting .* no member is required"),
        ((create_model("Deep", adapter=(Adapter, ...)) | None, None), r"painting.adapter .*\.Adapter"),
        ((list[int], Field([])), r"painting .* list\[int\]"),
        ((dict[str, int], Field({})), r"painting .* dict\[str, int\]"),
    ],
)
def test_a_field_without_a_control_is_an_error_that_names_it_and_the_remedy(
    declare: Any, field: Any, reason: str
) -> None:
    declare(painting=field)
    with pytest.raises(MissingControl, match=reason) as caught:
        controls.check_controls()
    assert "gradio_ingress.nested_controls.CONTROLS" in str(caught.value)


def test_a_field_without_a_control_fails_the_import_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    wider = create_model("Wider", __base__=GenerationRequest, strokes=(list[int], Field([])))
    monkeypatch.setattr(schema, "GenerationRequest", wider)
    again = spec_from_file_location("controls_again", controls.__file__)
    assert again
    assert again.loader
    with pytest.raises(MissingControl, match="strokes of GenerationRequest"):
        again.loader.exec_module(module_from_spec(again))


@pytest.mark.parametrize(
    ("path", "words", "element"),
    [
        ("num_inference_steps", "Inference steps", "num_inference_steps"),
        ("start.resize_mode", "Start, resize mode", "start-resize_mode"),
        ("adapters[0].weight", "Adapters, weight 1", "adapters-0-weight"),
        ("adapters[2]", "Adapters 3", "adapters-2"),
    ],
)
def test_a_path_has_words_and_an_element(path: str, words: str, element: str) -> None:
    assert (label(path), element_id(path)) == (words, element)


def test_an_error_of_a_member_names_its_control(declare: Any) -> None:
    declare(adapters=ADAPTERS)
    message = controls.in_page_words("adapters[1].weight must be 2 or less, got 3.", "adapters[1].weight")
    assert message == "Adapters, weight 2 must be 2 or less, got 3."
