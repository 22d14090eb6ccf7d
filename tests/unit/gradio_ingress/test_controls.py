"""Controls come from the schema and the card."""

from dataclasses import replace
from typing import Any, Literal

import gradio as gr
import pytest
from pydantic import create_model
from pydantic.fields import FieldInfo

from deployments.schema import MAX_SEED, GenerationRequest, nested_type
from gradio_ingress import controls
from models.errors import InvalidRequest
from tests.unit.gradio_ingress.fakes import CARD


def problem(**values: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        controls.to_request({"prompt": "a star"} | values)
    return caught.value


def extended(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    wider = create_model("Wider", __base__=GenerationRequest, **fields)
    monkeypatch.setattr(controls, "FIELDS", wider.model_fields)


@pytest.mark.parametrize("name", [name for name, field in controls.FIELDS.items() if not nested_type(field.annotation)])
def test_every_field_has_a_control_with_its_own_words(name: str) -> None:
    control = controls.create(name)[name]
    assert control.label == controls.label(name)
    assert control.info == GenerationRequest.model_fields[name].description


def test_a_bounded_number_is_a_slider_within_the_schemas_bounds() -> None:
    slider = controls.create("guidance_scale")["guidance_scale"]
    assert isinstance(slider, gr.Slider)
    assert (slider.minimum, slider.maximum, slider.step) == (0, 30, 0.5)


def test_the_page_offers_at_most_four_images_though_the_api_takes_ten() -> None:
    slider = controls.create("num_images")["num_images"]
    assert (slider.minimum, slider.maximum) == (1, 4)


def test_the_seed_is_a_box_as_no_slider_has_a_place_for_each_seed() -> None:
    seed = controls.create("seed")["seed"]
    assert isinstance(seed, gr.Number)
    assert (seed.minimum, seed.maximum, seed.precision) == (-1, MAX_SEED, 0)


def test_the_card_narrows_bounds_and_sets_values() -> None:
    steps = controls.fit("num_inference_steps", CARD)["num_inference_steps"]
    assert (steps["minimum"], steps["maximum"], steps["value"]) == (1, 100, 8)
    assert controls.fit("guidance_scale", CARD)["guidance_scale"]["value"] == 4.0


def test_a_size_that_the_card_fixes_is_not_shown() -> None:
    assert controls.fit("width", CARD)["width"]["visible"] is False


def test_a_size_that_the_card_leaves_open_steps_by_the_models_multiple() -> None:
    wide = replace(CARD, bounds={"width": (64, 256)}, size_multiple=32)
    width = controls.fit("width", wide)["width"]
    assert (width["visible"], width["minimum"], width["maximum"], width["step"]) == (True, 64, 256, 32)


def test_only_the_cards_samplers_and_styles_can_be_chosen() -> None:
    assert controls.fit("sampler", CARD)["sampler"]["choices"] == [("DDIM", "ddim"), ("Euler", "euler")]
    assert controls.fit("style", CARD)["style"]["choices"] == [("None", ""), ("Flat", "flat"), ("Cartoon", "cartoon")]


def test_the_model_is_asked_for_only_where_there_is_a_choice() -> None:
    assert controls.fit("model", CARD, ["shapes"])["model"]["visible"] is False
    both = controls.fit("model", CARD, ["shapes", "other"])["model"]
    assert both["visible"] is True
    assert both["value"] == "shapes"


def test_fitting_leaves_the_seed_that_was_used_last() -> None:
    assert "value" not in controls.fit("seed", CARD)["seed"]


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ((bool, FieldInfo(default=False)), gr.Checkbox),
        ((str, FieldInfo(default="")), gr.Textbox),
        ((float, FieldInfo(default=1.0)), gr.Number),
        ((int | None, FieldInfo(default=None)), gr.Number),
        ((Literal["low", "high"], FieldInfo(default="low")), gr.Dropdown),
    ],
)
def test_a_new_field_gets_a_control_from_its_type_alone(
    field: tuple[Any, FieldInfo], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    extended(monkeypatch, fine_grain=field)
    control = controls.create("fine_grain")["fine_grain"]
    assert type(control) is kind
    assert control.label == "Fine grain"


def test_the_style_of_an_example_is_in_its_prompts(caplog: pytest.LogCaptureFixture) -> None:
    photograph = {"prompt": "a star", "style": "photograph", "negative_prompt": "blurry", "seed": 7, "num_images": 2}
    unusable = ({"prompt": ""}, {"prompt": "a star", "sytle": "flat"}, {"prompt": "a star", "style": "anime"})
    card = replace(CARD, styles=("photograph",), examples=({"prompt": "a moon"}, *unusable, photograph))
    controls.examples(card)
    assert controls.examples(card) == [
        {"prompt": "a moon"},
        {
            "prompt": "photograph of a star, 35mm, natural light, sharp focus",
            "negative_prompt": "blurry, drawing, painting",
            "seed": 7,
        },
    ]
    assert caplog.text.count("an example of shapes is left out") == 3, "once each"


def test_what_is_not_chosen_is_left_out_of_the_request_and_what_is_emptied_is_not() -> None:
    request = controls.to_request({"prompt": "a star", "style": "", "negative_prompt": "", "seed": None})
    assert request.model_fields_set == {"prompt", "negative_prompt"}  # else the model's own would come back


def test_numbers_from_the_browser_may_be_floats() -> None:
    assert controls.to_request({"prompt": "a star", "num_inference_steps": 8.0}).num_inference_steps == 8


@pytest.mark.parametrize(
    ("values", "name", "bound"),
    [
        ({"prompt": ""}, "Prompt", "must not be empty"),
        ({"prompt": "  "}, "Prompt", "blank"),
        ({"prompt": "x" * 100_000}, "Prompt", "4000"),
        ({"num_inference_steps": 500}, "Inference steps", "150"),
        ({"num_inference_steps": 7.5}, "Inference steps", "integer"),
        ({"seed": -2}, "Seed", "-1"),
        ({"num_images": 7}, "Images", "4 or less on this page"),
        ({"num_images": 11}, "Images", "4 or less on this page"),
        ({"guidance_scale": 31}, "Guidance scale", "30"),
    ],
)
def test_bad_input_is_refused_in_words_that_name_the_control_and_its_bound(
    values: dict[str, Any], name: str, bound: str
) -> None:
    message = problem(**values).message
    assert message.startswith(f"{name} ")
    assert bound in message
    assert len(message) < 200


def test_messages_of_the_cluster_get_the_controls_label() -> None:
    words = controls.in_page_words("num_inference_steps must be from 1 to 100.", "num_inference_steps")
    assert words == "Inference steps must be from 1 to 100."
    assert controls.in_page_words("The queue is full.", None) == "The queue is full."


def test_what_the_schema_does_not_allow_is_left_out_and_named() -> None:
    kept, refused = controls.usable({"prompt": "a star", "seed": 10**30, "width": 3, "num_inference_steps": 9}, CARD)
    assert kept == {"prompt": "a star", "num_inference_steps": 9}
    assert len(refused) == 2
    assert controls.usable({"prompt": " ", "seed": 7, "width": 3}, CARD)[0] == {"seed": 7}


def test_what_the_model_does_not_allow_is_left_out_and_named() -> None:
    given = {
        "width": 512,
        "height": 64,
        "num_inference_steps": 120,
        "sampler": "heun",
        "style": "anime",
        "guidance_scale": 3.0,
    }
    assert controls.usable(given, CARD) == (
        {"height": 64, "guidance_scale": 3.0},
        [
            "Style must be one of flat, cartoon for shapes, got anime.",
            "Width must be 64 for shapes, got 512.",
            "Inference steps must be from 1 to 100 for shapes, got 120.",
            "Sampler must be one of DDIM, Euler for shapes, got Heun.",
        ],
    )


def test_a_text_that_names_what_the_model_lacks_is_kept_for_people_to_change() -> None:
    given = {"prompt": "embedding:ink", "negative_prompt": "embedding:blur", "seed": 7, "width": 512}
    kept, refused = controls.usable(given, CARD)
    assert kept == {"prompt": "embedding:ink", "negative_prompt": "embedding:blur", "seed": 7}
    assert refused == ["Width must be 64 for shapes, got 512."]


def test_a_value_that_no_model_allows_is_named_with_the_bound_of_the_model() -> None:
    refused = controls.usable({"clip_skip": 99, "sampler": "magic", "num_inference_steps": 500}, CARD)[1]
    assert refused == [
        "Inference steps must be from 1 to 100 for shapes, got 500.",
        "Clip skip must be from 0 to 12 for shapes, got 99.",
        "Sampler must be one of DDIM, Euler for shapes, got magic.",
    ]


def test_a_value_that_the_models_own_do_not_go_with_is_kept_and_named() -> None:
    card = replace(CARD, samplers=("ddim", "lcm"), defaults=CARD.defaults | {"num_inference_steps": 80})
    assert controls.usable({"sampler": "lcm"}, card) == (
        {"sampler": "lcm"},
        ["Inference steps must be at most 50 for LCM, got 80."],
    )


def test_shapes_are_of_about_the_models_own_area_and_within_its_bounds() -> None:
    wide = replace(CARD, defaults=CARD.defaults | {"width": 512, "height": 512}, bounds={"width": (256, 768)})
    assert controls.aspects(wide) == {
        "1:1": (512, 512),
        "4:3": (576, 448),
        "3:4": (448, 576),
        "16:9": (704, 384),
        "9:16": (384, 704),
    }
    assert controls.aspects(replace(wide, bounds={"width": (512, 640)})) == {"1:1": (512, 512), "4:3": (576, 448)}
    assert controls.aspects(CARD) == {}
