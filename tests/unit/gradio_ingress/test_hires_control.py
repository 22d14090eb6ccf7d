"""The second pass has a switch on the page."""

from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from deployments.request_errors import read_request
from deployments.resolution import resolve
from gradio_ingress import controls
from gradio_ingress.layout import Layout
from gradio_ingress.restored import settings_of
from tests.unit.gradio_ingress.fakes import CARD

WIDE = replace(CARD, bounds=dict(CARD.bounds) | {"width": (64, 256), "height": (64, 256)})


def fitted(card: Any = WIDE) -> dict[str, Any]:
    return {path: update["value"] for path, update in controls.fit("hires", card).items()}


def test_there_is_a_second_pass_only_while_the_switch_is_on() -> None:
    with gr.Blocks():
        created: Any = controls.create("hires")
    assert list(created) == ["hires", *(f"hires.{member}" for member in ("scale", "strength", "steps", "upscaler"))]
    assert isinstance(created["hires"], gr.Checkbox)
    assert controls.read(fitted()) == {"hires": None}
    sent = controls.read(fitted() | {"hires": True})
    assert sent == {"hires": {"scale": 2.0, "strength": 0.7, "upscaler": "latent"}}
    [spec] = resolve(controls.to_request({"prompt": "a star"} | sent), WIDE)
    assert spec.hires is not None
    assert (spec.hires.width, spec.hires.height) == (128, 128)


@pytest.mark.parametrize("hires", [None, {"scale": 3, "strength": 0.5, "steps": 6, "upscaler": "lanczos"}])
def test_the_second_pass_of_a_picture_is_restored(hires: dict[str, Any] | None) -> None:
    [spec] = resolve(read_request({"prompt": "a star", "hires": hires}), WIDE)
    assert controls.read(controls.write({"hires": settings_of(spec).get("hires")})) == {"hires": hires}


def test_a_model_with_one_size_offers_no_second_pass() -> None:
    with gr.Blocks():
        parts = Layout()
    assert parts.fitted([CARD], CARD)[parts.sections["hires"]]["visible"] is False
    assert parts.fitted([WIDE], WIDE)[parts.sections["hires"]]["visible"] is True


def test_the_scale_is_the_greatest_of_the_usual_ones_that_the_model_allows() -> None:
    narrow = replace(CARD, size_multiple=8, bounds=dict(CARD.bounds) | {"width": (64, 100), "height": (64, 100)})
    assert fitted(narrow)["hires.scale"] == 1.5
