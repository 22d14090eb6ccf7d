"""Hugging Face's dialect."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from deployments.api.limits import MAX_BODY
from deployments.input_store import id_of
from models.errors import InvalidRequest, NonFinite
from tests.fakes import STEPS
from tests.image_files import photo, saved
from tests.unit.deployments.api.caller import Api, size_of


async def ask(api: Api, parameters: Any = None, accept: str = "image/png", model: str = "shapes") -> httpx.Response:
    body = {"inputs": "a circle"} | ({} if parameters is None else {"parameters": parameters})
    return await api.http.post(f"/hf/models/{model}", json=body, headers={"Accept": accept})


async def test_a_prompt_gives_a_pictures_bytes_and_its_seed(api: Api) -> None:
    answer = await ask(api, {"seed": 7})
    assert (answer.status_code, answer.headers["content-type"], answer.headers["x-seed"]) == (200, "image/png", "7")
    assert (await api.http.get(f"/jobs/{answer.headers['x-job-id']}")).json()["status"] == "succeeded"
    assert size_of(answer.content) == (4, 4)


async def test_every_parameter_reaches_the_pipeline(api: Api) -> None:
    parameters = {
        "negative_prompt": "square",
        "width": 192,
        "height": 128,
        "num_inference_steps": 3,
        "guidance_scale": 2.5,
        "scheduler": "euler",
        "seed": 3,
        "style": "flat",
    }
    assert (await ask(api, parameters)).status_code == 200
    [spec] = api.pipeline.specs
    assert (spec.width, spec.height, spec.num_inference_steps, spec.guidance_scale) == (192, 128, 3, 2.5)
    assert (spec.prompt, spec.negative_prompt, spec.sampler) == ("a circle, flat design", "square", "euler")


async def test_what_is_left_out_is_the_models_own(api: Api) -> None:
    for parameters in (None, {}):
        assert (await ask(api, parameters)).status_code == 200
    assert [spec.num_inference_steps for spec in api.pipeline.specs] == [STEPS, STEPS]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/webp", "webp"),
        ("image/jpeg;q=0.9, image/png", "png"),
        ("image/jpeg;q=0.9, image/png;q=0.95, image/webp;q=0.2", "png"),
        ("image/avif, image/webp, image/jpeg, */*;q=0.8", "webp"),
        ("image/webp;q=0.1, */*", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("text/html, IMAGE/JPEG ; q=1.000", "jpeg"),
        ("image/png;q=0, */*", "jpeg"),
        ("image/png;q=0.5, image/jpeg;q=0, image/*;q=0.2", "png"),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "jpeg"),  # of Java before 21
        ("image/webp;q=0.3333, image/jpeg;q=.5", "jpeg"),
        ("image/webp;q=0., image/jpeg;q=1.", "jpeg"),
        ("image/webp;q=0.9, image/jpeg;q=1.5", "jpeg"),
        *((f"image/webp;q=0.9, image/jpeg;q={q}", "jpeg") for q in ("two", "", ".", "-1", "nan", "9")),
    ],
)
async def test_the_format_is_the_one_of_ours_that_is_accepted_most(api: Api, accept: str, kind: str) -> None:
    assert (await ask(api, accept=accept)).headers["content-type"] == f"image/{kind}"


@pytest.mark.parametrize("accept", ["*/*;q=0", "image/jpeg;q=0", "image/jpeg;q=.0"])
async def test_an_accept_that_accepts_nothing_of_ours_is_refused(api: Api, accept: str) -> None:
    answer = await ask(api, accept=accept)
    assert (answer.status_code, answer.json()["error"].startswith("Accept")) == (400, True)
    await api.assert_idle()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": ""}, "inputs"),
        ({"inputs": "  "}, "inputs must not be blank"),
        ({}, "inputs"),
        ({"inputs": "a", "parameters": {"num_inference_steps": 0}}, "num_inference_steps must be 1 or more"),
        ({"inputs": "a", "parameters": {"width": 100}}, "width must be a multiple of 64"),
        ({"inputs": "a", "parameters": {"colour": "red"}}, "is not a known field"),
        (
            {"inputs": "a", "parameters": {"scheduler": "magic"}},
            "scheduler must be one of ddim, euler for shapes, got magic.",
        ),
        (
            {"inputs": "a", "parameters": {"scheduler": "dpmpp_2m"}},
            "scheduler must be one of ddim, euler for shapes, got dpmpp_2m.",
        ),
    ],
)
async def test_bad_input_is_refused_as_hugging_face_words_it(api: Api, body: dict[str, Any], words: str) -> None:
    answer = await api.http.post("/hf/models/shapes", json=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    await api.assert_idle()


async def test_a_format_that_is_not_made_is_refused(api: Api) -> None:
    answer = await ask(api, accept="image/gif")
    assert (answer.status_code, "image/png" in answer.json()["error"]) == (400, True)
    await api.assert_idle()


async def test_an_unknown_model_is_a_404_and_a_failure_a_500(api: Api) -> None:
    answer = await ask(api, model="owner/magic")
    assert (answer.status_code, "served: shapes" in answer.json()["error"]) == (404, True)
    api.pipeline.problems = [NonFinite("The picture turned into NaN.")]
    answer = await ask(api)
    assert (answer.status_code, answer.json()) == (500, {"error": "The picture turned into NaN."})


async def test_a_job_that_fails_by_its_request_names_the_field_as_the_caller_sent_it(api: Api) -> None:
    api.pipeline.problems = [InvalidRequest("sampler must be another one.", "sampler")]
    answer = await ask(api)
    assert (answer.status_code, answer.json()) == (400, {"error": "scheduler must be another one."})


async def test_health_is_of_a_model(api: Api) -> None:
    assert (await api.http.get("/hf/models/shapes/health")).json() == {"status": "ok"}
    answer = await api.http.get("/hf/models/owner/magic/health")
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


async def test_options_are_accepted_and_change_nothing(api: Api) -> None:
    body = {"inputs": "a circle", "options": {"wait_for_model": True, "use_cache": False}, "parameters": {"seed": 7}}
    assert (await api.http.post("/hf/models/shapes", json=body)).headers["x-seed"] == "7"


async def test_the_same_key_gives_the_same_image_and_draws_once(api: Api) -> None:
    async def answer(prompt: str) -> httpx.Response:
        headers = {"Idempotency-Key": "order-17"}
        return await api.http.post("/hf/models/shapes", json={"inputs": prompt}, headers=headers)

    first, second = await answer("a circle"), await answer("a circle")
    assert (len(api.pipeline.started), first.headers["x-seed"]) == (1, second.headers["x-seed"])
    refused = await answer("a star")
    assert (refused.status_code, "Idempotency-Key" in refused.json()["error"]) == (422, True)


# -- image to image


IMAGE = saved(photo(192, 128), "PNG")
ENCODED = base64.b64encode(IMAGE).decode()
SIZE = {"width": 128, "height": 128}
KINDS = ("PNG", "JPEG", "WEBP")


async def ask_image(api: Api, inputs: str = ENCODED, headers: Any = None, **parameters: Any) -> httpx.Response:
    """Ask as `InferenceClient.image_to_image` does."""
    body = {"inputs": inputs, "parameters": parameters}
    return await api.http.post("/hf/models/shapes", json=body, headers=headers)


async def test_an_image_and_a_prompt_give_an_image(api: Api) -> None:
    target = {"width": 128, "height": 128}
    answer = await ask_image(
        api,
        prompt="a circle",
        negative_prompt="square",
        guidance_scale=2.5,
        num_inference_steps=4,
        strength=0.5,
        target_size=target,
        scheduler="euler",
        resize_mode="fit",
        seed=7,
    )
    assert (answer.status_code, answer.headers["x-seed"], size_of(answer.content)) == (200, "7", (4, 4))
    [spec] = api.pipeline.specs
    assert (spec.prompt, spec.negative_prompt, spec.sampler, spec.guidance_scale) == (
        "a circle",
        "square",
        "euler",
        2.5,
    )
    assert (spec.init.input, spec.init.strength, spec.init.resize_mode) == (id_of(IMAGE), 0.5, "fit")
    assert (spec.width, spec.height) == (128, 128)


async def test_without_a_size_and_a_prompt_the_image_has_the_shape_of_the_one_that_was_sent(api: Api) -> None:
    assert (await ask_image(api)).status_code == 200
    [spec] = api.pipeline.specs
    assert (spec.prompt, spec.width, spec.init.strength) == ("", 192, 0.75)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["", "data:image/png;base64,"])
async def test_an_image_is_known_in_each_format_and_as_a_data_url(api: Api, kind: str, start: str) -> None:
    content = saved(photo(192, 128), kind)
    assert (await ask_image(api, start + base64.b64encode(content).decode(), prompt="a")).status_code == 200
    assert api.pipeline.specs[0].init.input == id_of(content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("headers", [{}, {"Content-Type": "image/png"}, {"Content-Type": "application/octet-stream"}])
async def test_an_image_may_be_the_body_itself(api: Api, kind: str, headers: dict[str, str]) -> None:
    content = saved(photo(192, 128), kind)
    answer = await api.http.post("/hf/models/shapes", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert api.pipeline.specs[0].init.input == id_of(content)


PROMPTS = ["/9j/ is how it begins", "iVBOR is a word", "R", "data: image", "data: a, b", "UklGR/ but long"]


@pytest.mark.parametrize("prompt", [*PROMPTS, "a sign with https://example.org/a.png", "https://a.org on a sign"])
async def test_a_prompt_that_begins_as_an_image_does_is_a_prompt(api: Api, prompt: str) -> None:
    assert (await api.http.post("/hf/models/shapes", json={"inputs": prompt})).status_code == 200
    assert (api.pipeline.specs[0].prompt, api.pipeline.specs[0].init) == (prompt, None)


async def test_an_image_may_be_larger_than_other_bodies_and_what_is_beside_it_may_not(api: Api) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (700, 700, 3), np.uint8))
    large = base64.b64encode(saved(noise, "PNG")).decode()
    assert len(large) > MAX_BODY
    assert (await ask_image(api, large, prompt="a")).status_code == 200
    escaped = json.dumps({"inputs": large}).replace("/", "\\/").encode()  # as PHP writes it
    headers = {"Content-Type": "application/json"}
    assert (await api.http.post("/hf/models/shapes", content=escaped, headers=headers)).status_code == 200
    for body in ({"inputs": "a " * MAX_BODY}, {"inputs": large, "options": {"a": "b" * MAX_BODY}}):
        answer = await api.http.post("/hf/models/shapes", json=body)
        assert (answer.status_code, "beside an image" in answer.json()["error"]) == (413, True)
    nested = {"parameters": {"inputs": large}, "inputs": "a"}
    assert "inputs is not a known field" in (await api.http.post("/hf/models/shapes", json=nested)).json()["error"]
    assert {spec.init.input for spec in api.pipeline.specs} == {id_of(base64.b64decode(large))}


MASK_REFUSED = "mask_image is not supported here: POST /v1/images/edits takes a mask."
NOT_FETCHED = "inputs must be text, or an image in base64: addresses are not fetched"
ADDRESSES = ["https://example.org/a.png", "HTTP://[::1]/a", " https://example.org/?a=b ", f"http://{'a' * 5000}"]
OTHER_DATA = [
    "text/plain,hello",
    "text/plain;charset=utf-8,hello world",
    ";base64,aGVsbG8=",
    f"application/octet-stream;base64,{ENCODED}",
    "image/svg+xml,<svg xmlns='a'>",
]


@pytest.mark.parametrize(
    ("inputs", "parameters", "words"),
    [
        ("a circle", {"prompt": "a"}, "parameters.prompt is for image to image: inputs must be an image in base64."),
        ("a circle", {"target_size": {"width": 128, "height": 128}}, "parameters.target_size is for image to image"),
        ("a circle", {"strength": 0.5}, "parameters.strength is for image to image"),
        (ENCODED, {"init": {"input": "a"}}, "init must be left out where inputs is an image."),
        (
            ENCODED,
            {"target_size": SIZE, "width": 64},
            "target_size must be left out beside width.",
        ),
        (
            ENCODED,
            {"target_size": SIZE | {"height": 512}},
            "target_size.height must be 128 for shapes, got 512.",
        ),
        (ENCODED, {"target_size": {"width": 128}}, "target_size.height is required."),
        (ENCODED, {"width": 100}, "width must be a multiple of 64 for shapes, got 100."),
        (ENCODED, {"strength": 2}, "strength must be 1 or less, got 2."),
        (ENCODED, {"strength": 0.01}, "strength must be 0.125 or more"),
        (ENCODED, {"scheduler": "lcm"}, "scheduler must be one of ddim, euler for shapes, got lcm."),
        (ENCODED, {"mask_image": ENCODED}, MASK_REFUSED),
        ("a circle", {"mask_image": ENCODED}, MASK_REFUSED),
        (ENCODED[:200], {}, "inputs: "),
        (ENCODED[:201], {}, "inputs must be a whole image in base64."),
        ("data:image/png,abc", {}, "inputs must be a whole image in base64."),
        (base64.b64encode(saved(photo(), "GIF")).decode(), {}, "inputs: "),
        *((address, {"prompt": "a"}, NOT_FETCHED) for address in ADDRESSES),
        *((address, {}, NOT_FETCHED) for address in ADDRESSES),
        *((f"data:{rest}", {}, "inputs must be text, or an image in base64; a data URL must") for rest in OTHER_DATA),
    ],
)
async def test_bad_images_and_parameters_are_refused_in_the_names_of_hugging_face(
    api: Api, inputs: str, parameters: dict[str, Any], words: str
) -> None:
    answer = await ask_image(api, inputs, **parameters)
    assert (answer.status_code, answer.json()["error"].startswith(words)) == (400, True), answer.text
    assert ENCODED[:50] not in answer.text
    assert (await api.http.get("/inputs")).json()["data"] == []
    await api.assert_idle()


async def test_a_body_that_is_neither_json_nor_an_image_is_refused(api: Api) -> None:
    answer = await api.http.post("/hf/models/shapes", content=b"heic", headers={"Content-Type": "image/heic"})
    assert (answer.status_code, "takes images as PNG, JPEG or WebP" in answer.json()["error"]) == (400, True)


async def test_the_same_key_and_image_give_the_same_job_after_the_input_has_gone(api: Api) -> None:
    headers = {"Idempotency-Key": "order-17"}
    first = await ask_image(api, headers=headers, prompt="a")
    assert (await api.http.delete(f"/inputs/{id_of(IMAGE)}")).status_code == 204
    again = await ask_image(api, headers=headers, prompt="a")
    assert (again.headers["x-job-id"], again.content) == (first.headers["x-job-id"], first.content)
    assert (await ask_image(api, headers=headers, prompt="b")).status_code == 422
    assert (len(api.pipeline.started), (await api.http.get("/inputs")).json()["data"]) == (1, [])
