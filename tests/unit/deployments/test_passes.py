"""What a request for a second pass at a higher resolution becomes, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from deployments.api.openai.answers import completed_event
from deployments.dispatcher.lease import Lease
from deployments.jobs import Job, new_job
from deployments.request_errors import read_request
from deployments.resolution import request_data, resolve
from gradio_ingress import receipt
from models.errors import InvalidRequest
from models.hires import Hires, hires_size
from models.settings_text import settings_text
from models.spec import ImageSpec, InitImage
from tests.fakes import CARD, STEPS, a_result

CARD = replace(CARD, bounds={"width": (64, 256), "height": (64, 512)}, samplers=("ddim", "euler", "lcm"))


def resolved(hires: dict[str, Any], **fields: Any) -> ImageSpec:
    [spec] = resolve(read_request({"prompt": "a circle", "seed": 7, "hires": hires, **fields}), CARD)
    return spec


def refusal(hires: dict[str, Any], **fields: Any) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolved(hires, **fields)
    return caught.value.param, caught.value.message


def test_what_is_left_out_is_the_models_or_the_images() -> None:
    assert resolved({"scale": 2}).hires == Hires(
        scale=2.0, strength=0.7, steps=STEPS, upscaler="latent", width=256, height=256
    )
    chosen = {"scale": 1.5, "strength": 0.4, "steps": 20, "upscaler": "lanczos"}
    assert resolved(chosen).hires == Hires(**chosen, width=192, height=192)
    second = resolved({"scale": 2}, num_inference_steps=3).hires
    assert second is not None
    assert second.steps == 3


@pytest.mark.parametrize(
    ("size", "scale", "multiple", "larger"),
    [
        ((512, 768), 1.5, 8, (768, 1152)),
        ((512, 768), 1.6, 64, (768, 1216)),
        ((200, 64), 1.16, 8, (232, 72)),  # 231.99999999999997 in floats
    ],
)
def test_a_size_is_rounded_down_to_what_the_model_has(size, scale, multiple, larger) -> None:
    assert hires_size(size, scale, multiple) == larger


def test_the_second_pass_begins_with_the_result_of_the_first() -> None:
    spec = resolved({"scale": 2, "strength": 0.5, "steps": 6})
    first, second = spec.passes
    assert first == replace(spec, hires=None)
    assert (second.width, second.height, second.num_inference_steps, second.hires) == (256, 256, 6, None)
    assert second.init == InitImage(input="", strength=0.5)
    assert (second.seed, second.prompt, second.sampler) == (7, "a circle", "ddim")
    assert spec.size == (256, 256)
    assert replace(spec, hires=None).size == (128, 128)


def test_an_image_to_begin_with_is_the_first_passs_and_its_mask_is_both_passes() -> None:
    spec = resolved({"scale": 2}, init={"input": "a", "strength": 0.3, "mask": "b", "paste_back": True})
    first, second = spec.passes
    own = InitImage(input="a", strength=0.3, mask="b", paste_back=True)
    assert (first.init, second.init) == (own, replace(own, strength=0.7))


def test_its_work_is_the_sum_of_both_passes() -> None:
    spec = resolved({"scale": 2, "strength": 0.5})
    assert [tuple(segment) for segment in spec.segments] == [(128, 128, 2, 8), (256, 256, 2, 4)]
    assert (spec.rows, spec.model_calls) == (2, 12)
    assert spec.cost == (8 * 2 * 128**2 + 4 * 2 * 256**2) / 2**20


@pytest.mark.parametrize(
    ("hires", "fields", "param", "message"),
    [
        ({}, {}, "hires.scale", "hires.scale is required."),
        ({"scale": 1}, {}, "hires.scale", "hires.scale must be more than 1, got 1."),
        ({"scale": 4.1}, {}, "hires.scale", "hires.scale must be 4 or less, got 4.1."),
        (
            {"scale": 3},
            {},
            "hires.scale",
            "hires.scale must be from 1.5 to 2 for images of 128x128 with shapes, got 3.",
        ),
        (
            {"scale": 1.49},
            {},
            "hires.scale",
            "hires.scale must be from 1.5 to 2 for images of 128x128 with shapes, got 1.49.",
        ),
        (
            {"scale": 2},
            {"width": 256},
            "hires",
            "hires must be left out for images of 256x128 with shapes: no scale gives a larger size.",
        ),
        (
            {"scale": 2, "strength": 0.1},
            {},
            "hires.strength",
            "hires.strength must be 0.125 or more: of 8 steps 0.1 is less than one.",
        ),
        (
            {"scale": 2, "steps": 51},
            {"sampler": "lcm"},
            "hires.steps",
            "hires.steps must be at most 50 for lcm, got 51.",
        ),
        ({"scale": 2, "upscaler": "x"}, {}, "hires.upscaler", "hires.upscaler must be 'latent' or 'lanczos', got 'x'."),
    ],
)
def test_what_the_model_cannot_do_is_refused_with_the_field_and_its_bounds(hires, fields, param, message) -> None:
    assert refusal(hires, **fields) == (param, message)


@pytest.mark.parametrize(("scale", "keeps"), [(1.3, 1.5), (1.8, 1.5)])
def test_both_passes_around_a_mask_have_one_shape(monkeypatch: pytest.MonkeyPatch, scale: float, keeps: float) -> None:
    monkeypatch.setitem(CARD.bounds, "width", (64, 512))
    size, around = {"width": 256, "height": 128}, {"input": "a", "mask": "b", "strength": 0.5, "area": "masked"}
    assert resolved({"scale": scale}, **size).size[0] != 2 * resolved({"scale": scale}, **size).size[1]
    assert refusal({"scale": scale}, **size, init=around) == (
        "hires.scale",
        f"hires.scale must keep the shape of 256x128 with init.area masked, got {scale}; {keeps} does.",
    )
    assert resolved({"scale": keeps}, **size, init=around).size == (384, 192)


def test_bounds_of_the_models_steps_hold_in_the_second_pass_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CARD.bounds, "num_inference_steps", (1, 10))
    assert refusal({"scale": 2, "steps": 11}) == ("hires.steps", "hires.steps must be from 1 to 10 for shapes, got 11.")


def test_steps_that_leave_noise_are_warned_of_by_their_field() -> None:
    spec = resolved({"scale": 2, "steps": 2, "strength": 1}, sampler="euler")
    assert CARD.warnings_for(spec) == ("hires.steps: euler needs 3 or more with this model; 2 leave noise.",)


def test_jobs_and_the_text_of_files_have_it_as_it_was_sent() -> None:
    spec = resolved({"scale": 2, "steps": 6})
    sent = {"scale": 2.0, "strength": 0.7, "steps": 6, "upscaler": "latent"}
    job = new_job([spec], "me", 0.0)
    assert TypeAdapter(Job).validate_json(TypeAdapter(Job).dump_json(job)) == job
    assert request_data(spec)["hires"] == sent
    written = json.dumps(json.dumps(sent | {"width": 256, "height": 256}))
    assert f"Seed: 7, Hires: {written}, Prompt syntax: plain, Size: 128x128, Model: shapes" in settings_text(spec)


def test_receipts_and_responses_say_how_large_the_image_became() -> None:
    spec = resolved({"scale": 2, "steps": 6})
    image = a_result(spec, Lease("job_x", 0))
    said = dict(receipt.lines(image, None))["Higher resolution"]
    assert said == "scale 2.0, strength 0.7, steps 6, upscaler latent, width 256, height 256"
    job = replace(new_job([spec], "me", 0.0), images=(image,))
    assert completed_event(job, b"", "image_generation")["size"] == "256x256"
