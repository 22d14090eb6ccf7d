"""Hugging Face's dialect."""

import base64
from typing import Any

import httpx
import pytest

from models.errors import InvalidRequest, NonFinite
from tests.fakes import STEPS
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


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 9000).decode()


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {"inputs": PNG}},
        {"json": {"inputs": PNG[:200], "parameters": {"prompt": "a circle"}}},
        {"json": {"inputs": "a circle", "parameters": {"target_size": {"width": 128, "height": 128}}}},
        {"content": b"\x89PNG\r\n\x1a\n", "headers": {"Content-Type": "image/png"}},
        {"content": b"\x89PNG\r\n\x1a\n\xff"},
    ],
)
async def test_image_to_image_is_said_not_to_be_offered(api: Api, sent: dict[str, Any]) -> None:
    answer = await api.http.post("/hf/models/shapes", **sent)
    assert (answer.status_code, "image-to-image is not offered" in answer.json()["error"]) == (400, True)
    assert PNG[:50] not in answer.text
    await api.assert_idle()
