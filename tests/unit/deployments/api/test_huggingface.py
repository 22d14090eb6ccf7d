"""Hugging Face's dialect."""

from typing import Any

import httpx
import pytest

from models.errors import NonFinite
from tests.fakes import STEPS
from tests.unit.deployments.api.caller import Api, size_of


async def ask(api: Api, parameters: Any = None, accept: str = "image/png", model: str = "shapes") -> httpx.Response:
    body = {"inputs": "a circle"} | ({} if parameters is None else {"parameters": parameters})
    return await api.http.post(f"/hf/models/{model}", json=body, headers={"Accept": accept})


async def test_a_prompt_gives_a_pictures_bytes_and_its_seed(api: Api) -> None:
    answer = await ask(api, {"seed": 7})
    assert (answer.status_code, answer.headers["content-type"], answer.headers["x-seed"]) == (200, "image/png", "7")
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
    [("image/webp", "webp"), ("image/jpeg;q=0.9, image/png", "jpeg"), ("*/*", "png"), ("image/*", "png")],
)
async def test_the_format_is_the_first_of_ours_that_is_accepted(api: Api, accept: str, kind: str) -> None:
    assert (await ask(api, accept=accept)).headers["content-type"] == f"image/{kind}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": ""}, "inputs"),
        ({"inputs": "  "}, "prompt"),
        ({}, "inputs"),
        ({"inputs": "a", "parameters": {"num_inference_steps": 0}}, "num_inference_steps must be 1 or more"),
        ({"inputs": "a", "parameters": {"width": 100}}, "width must be a multiple of 64"),
        ({"inputs": "a", "parameters": {"colour": "red"}}, "is not a known field"),
        ({"inputs": "a", "parameters": {"scheduler": "magic"}}, "'ddim'"),
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


async def test_health_is_of_a_model(api: Api) -> None:
    assert (await api.http.get("/hf/models/shapes/health")).json() == {"status": "ok"}
    answer = await api.http.get("/hf/models/owner/magic/health")
    assert (answer.status_code, list(answer.json())) == (404, ["error"])
