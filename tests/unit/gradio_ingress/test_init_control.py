"""The image that a picture begins with has controls on the page."""

from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from deployments.request_errors import read_request
from deployments.resolution import resolve
from gradio_ingress import controls
from gradio_ingress.layout import Layout
from gradio_ingress.restored import settings_of
from models.errors import InvalidRequest
from tests.unit.gradio_ingress.fakes import CARD

IMAGE, MASK = (f"input_{digit * 64}" for digit in "01")
INPAINTING = replace(CARD, requires=("init.mask",))


def fitted(card: Any = CARD) -> dict[str, Any]:
    """What the controls hold once the page has fitted itself to a model."""
    return {path: update["value"] for path, update in controls.fit("init", card).items()}


def test_each_member_has_a_control_and_an_image_is_taken_by_one_of_its_own() -> None:
    with gr.Blocks():
        created: Any = controls.create("init")
    assert {path.removeprefix("init."): type(each) for path, each in created.items()} == {
        "input": gr.HTML,
        "strength": gr.Slider,
        "resize_mode": gr.Dropdown,
        "mask": gr.HTML,
        "mask_blur": gr.Slider,
        "area": gr.Dropdown,
        "paste_back": gr.Checkbox,
    }
    assert (created["init.input"].elem_id, created["init.input"].label) == ("init-input", "Image to begin with")
    assert (created["init.strength"].minimum, created["init.strength"].maximum) == (0.05, 1)


def test_strength_is_the_models_and_there_is_no_image() -> None:
    assert fitted(replace(CARD, member_defaults={"init.strength": 0.5}))["init.strength"] == 0.5
    assert controls.read(fitted()) == {"init": None}


def test_an_image_is_sent_without_what_belongs_to_a_mask() -> None:
    sent = controls.read(fitted() | {"init.input": IMAGE})
    assert sent == {"init": {"input": IMAGE, "strength": 0.75, "resize_mode": "crop"}}
    assert resolve(controls.to_request({"prompt": "a star"} | sent), CARD)


def test_with_a_mask_the_rest_is_pasted_back_unless_somebody_said_otherwise() -> None:
    values = fitted() | {"init.input": IMAGE, "init.mask": MASK}
    assert controls.read(values)["init"]["paste_back"] is True
    assert controls.read(values | {"init.paste_back": False})["init"]["paste_back"] is False


@pytest.mark.parametrize("members", [{}, {"mask": MASK}, {"mask": MASK, "mask_blur": 9, "paste_back": True}])
def test_the_image_of_a_picture_is_restored_as_it_was(members: dict[str, Any]) -> None:
    sent = {"prompt": "a star", "init": {"input": IMAGE, "strength": 0.4, **members}}
    [spec] = resolve(read_request(sent), CARD)
    restored = controls.read(controls.write({"init": settings_of(spec)["init"]}))
    [again] = resolve(read_request(sent | restored), CARD)
    assert again.init == spec.init


def test_a_mask_without_an_image_is_refused_on_the_images_control() -> None:
    with pytest.raises(InvalidRequest, match="Image to begin with is required") as refused:
        controls.to_request({"prompt": "a star"} | controls.read(fitted() | {"init.mask": MASK}))
    assert refused.value.param == "init.input"


def test_a_model_that_needs_a_mask_says_so() -> None:
    labels = {path: update.get("label") for path, update in controls.fit("init", INPAINTING).items()}
    assert "needs an image" in labels["init.input"]
    assert "needs a mask" in labels["init.mask"]
    assert controls.fit("init", CARD)["init.mask"]["label"] == "Mask"


def test_the_section_opens_for_a_model_that_needs_a_mask_and_for_a_form_with_an_image() -> None:
    with gr.Blocks():
        parts = Layout()
    assert parts.fitted([INPAINTING], INPAINTING)[parts.sections["init"]]["open"] is True
    assert "open" not in parts.fitted([CARD], CARD)[parts.sections["init"]]
    assert parts.filled([CARD], {"init": {"input": IMAGE}})[parts.sections["init"]]["open"] is True


def test_other_settings_are_kept_though_the_model_needs_a_mask() -> None:
    data = {"num_inference_steps": 4, "width": 65}
    kept, refused = controls.chosen(data, INPAINTING, [INPAINTING])
    assert kept == ["num_inference_steps"]
    assert [reason.partition(" ")[0] for reason in refused] == ["Width"]
    kept, refused = controls.usable(data, INPAINTING)
    assert kept == {"num_inference_steps": 4}
    assert [reason.partition(" ")[0] for reason in refused] == ["Width"]
