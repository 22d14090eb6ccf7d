"""What is refused, and that nothing is queued then."""

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.api.limits import MAX_BODY
from tests.fakes import CARD
from tests.unit.deployments.api.caller import Api, problem

BAD_FIELDS = [
    ("prompt", "", "must not be empty"),
    ("prompt", "  \n", "blank"),
    ("prompt", "x" * 100_000, "4000 or fewer characters"),
    ("prompt", "a\0b", "NUL"),
    ("prompt", "a\ud800b", "must be (text|valid Unicode text)"),
    ("prompt", None, "must be (text|valid Unicode text)"),
    ("negative_prompt", "a\0b", "NUL"),
    ("num_inference_steps", 0, "must be 1 or more"),
    ("num_inference_steps", 151, "must be 150 or less"),
    ("num_inference_steps", "ten", "must be an integer"),
    ("guidance_scale", -1, "must be 0 or more"),
    ("guidance_scale", float("nan"), "finite number"),
    ("guidance_scale", float("inf"), "finite number|must be 30 or less"),
    ("seed", -2, "must be -1 or more"),
    ("seed", 2**64, "must be 4294967295 or less"),
    ("seed", 10**400, "must be 4294967295 or less"),
    ("sampler", "lms", "must be one of ddim, euler for shapes, got lms"),
    ("sampler", ["ddim"], "must be one of ddim, euler for shapes"),
    ("clip_skip", 99, "must be from 0 to 12 for shapes, got 99"),
    ("clip_skip", "99", "must be from 0 to 12 for shapes, got 99"),
    ("clip_skip", "-1", "must be from 0 to 12 for shapes, got -1"),
    ("clip_skip", -(10**400), r"must be from 0 to 12 for shapes\."),
    ("sampler", "dpmpp_2m", "ddim, euler for shapes"),
    ("style", "baroque", "must be one of flat, cartoon for shapes, got baroque"),
    ("style", "anime", "flat, cartoon for shapes"),
    ("output_format", "gif", "'png'"),
    ("stpes", 20, "is not a known field"),
]
BAD_JOBS = [
    ("width", 100, "multiple of 64"),
    ("width", 0, "must be from 64 to 256 for shapes, got 0"),
    ("width", 10**6, "must be from 64 to 256 for shapes, got 1000000"),
    ("height", 192, "must be 128 for shapes"),
    ("num_images", 0, "must be 1 or more"),
    ("num_images", 11, "must be 10 or less"),
]
BAD_IMAGES = [
    ("size", "100", "must be WIDTHxHEIGHT in pixels, or auto"),
    ("size", "-64x64", "must be WIDTHxHEIGHT in pixels, or auto"),
    ("size", "0x0", "must be WIDTHxHEIGHT in pixels, or auto"),
    ("size", "128X128", "must be WIDTHxHEIGHT in pixels, or auto"),
    ("size", "١٢٨x١٢٨", "must be WIDTHxHEIGHT in pixels, or auto"),
    ("n", 0, "must be 1 or more"),
    ("n", 11, "must be 10 or less"),
    ("response_format", "file", "'b64_json' or 'url'"),
    ("partial_images", 4, "must be 3 or less"),
]


@pytest.mark.parametrize(
    ("path", "field", "value", "words"),
    [
        pytest.param(path, *case, id=f"{path}-{case[0]}-{k}")
        for path, cases in (("/jobs", BAD_FIELDS + BAD_JOBS), ("/images/generations", BAD_FIELDS + BAD_IMAGES))
        for k, case in enumerate(cases)
    ],
)
async def test_bad_input_is_a_400_that_names_field_and_bound_and_queues_nothing(
    api: Api, path: str, field: str, value: object, words: str
) -> None:
    body = json.dumps({"prompt": "a circle", field: value})  # NaN as a literal, a lone surrogate escaped
    error = problem(await api.http.post(path, content=body, headers={"Content-Type": "application/json"}), 400)
    assert (error["param"], error["code"]) == (field, "invalid_value")
    assert field in error["message"]
    assert re.search(words, error["message"])
    assert len(error["message"]) < 300
    await api.assert_idle()


NARROW = replace(
    CARD,
    bounds={**CARD.bounds, "num_inference_steps": (1, 100), "guidance_rescale": (0, 0)},
    samplers=("ddim", "lcm"),
)
BEYOND_EVERY_MODEL = [
    ({"num_inference_steps": 500}, "num_inference_steps must be from 1 to 100 for shapes, got 500."),
    ({"num_inference_steps": 500, "sampler": "lcm"}, "num_inference_steps must be at most 50 for lcm, got 500."),
    ({"guidance_rescale": 2}, "guidance_rescale must be 0 for shapes, got 2."),
    ({"clip_skip": 99}, "clip_skip must be from 0 to 12 for shapes, got 99."),
    ({"sampler": "magic"}, "sampler must be one of ddim, lcm for shapes, got magic."),
    ({"style": "baroque"}, "style must be one of flat, cartoon for shapes, got baroque."),
    ({"guidance_scale": 31}, "guidance_scale must be 30 or less, got 31."),
]


@pytest.mark.parametrize("path", ["/jobs", "/images/generations", "/hf/models/shapes"])
@pytest.mark.parametrize(("fields", "words"), BEYOND_EVERY_MODEL)
async def test_a_value_that_no_model_allows_is_refused_with_the_bound_of_the_requests_model(
    api: Api, path: str, fields: dict[str, Any], words: str
) -> None:
    api.pipeline.served = NARROW
    await api.dispatcher._models["shapes"].exchange_demand(api.dispatcher._queue)
    if path.startswith("/hf/"):
        renamed = {"scheduler" if name == "sampler" else name: value for name, value in fields.items()}
        answer = await api.http.post(path, json={"inputs": "a circle", "parameters": renamed})
        assert (answer.status_code, answer.json()) == (400, {"error": words.replace("sampler must", "scheduler must")})
    else:
        answer = await api.http.post(path, json={"prompt": "a circle", "model": "shapes", **fields})
        error = problem(answer, 400)
        assert (error["message"], error["param"], error["code"]) == (words, words.split()[0], "invalid_value")
    await api.assert_idle()


async def test_a_bound_is_that_of_requests_while_the_model_is_unknown(api: Api) -> None:
    error = problem(await api.http.post("/jobs", json={"prompt": "a", "model": "other", "clip_skip": 99}), 400)
    assert error["message"] == "clip_skip must be 32 or less, got 99."
    error = problem(await api.http.post("/tokenize", json={"prompt": "a", "style": "baroque"}), 400)
    assert error["message"] == "style must be one of flat, cartoon for shapes, got baroque."


@pytest.mark.parametrize("size", ["100x128", "1024x1024", "128x99999", "1x1"])
async def test_a_size_that_the_model_lacks_is_refused_as_it_was_sent_with_those_that_it_has(
    api: Api, size: str
) -> None:
    error = problem(await api.generate(size=size), 400)
    allowed = "from 64x128 to 256x128 in steps of 64 pixels, or auto,"
    assert (error["param"], error["message"]) == ("size", f'size must be {allowed} for model "shapes"; got {size}.')
    await api.assert_idle()


async def test_the_size_of_a_model_that_has_one_is_named(api: Api) -> None:
    api.pipeline.served = replace(CARD, bounds={"width": (128, 128), "height": (128, 128)})
    await api.dispatcher._models["shapes"].exchange_demand(api.dispatcher._queue)
    error = problem(await api.generate(size="1024x1024"), 400)
    assert error["message"] == 'size must be 128x128 or auto for model "shapes"; got 1024x1024.'


async def test_the_number_of_images_is_n_in_openais_dialect(tmp_path: Path) -> None:
    error = problem(await Api(tmp_path, max_waiting=2).generate(n=3), 400)
    assert error["param"] == "n"
    assert error["message"].startswith("n must be at most 2")


@pytest.mark.parametrize("path", ["/jobs", "/images/generations"])
async def test_an_unknown_model_is_a_404_that_names_the_one_served(api: Api, path: str) -> None:
    error = problem(await api.http.post(path, json={"prompt": "a", "model": "dall-e-3"}), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "served: shapes" in error["message"]
    await api.assert_idle()


@pytest.mark.parametrize("path", ["/jobs", "/images/generations"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": "a",}',
        b"null",
        b"[]",
        b'"a circle"',
        b'\xff\xfe{"prompt": "a"}',
        b'{"prompt": ' + b"[" * 50_000,
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"' + b"x" * 5000 + b'": 1, "prompt": "a"}',
        b'{"\\ud800": 1, "prompt": "a"}',
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_a_body_that_is_no_request_is_a_400_and_queues_nothing(api: Api, path: str, body: bytes) -> None:
    answer = await api.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert len(problem(answer, 400)["message"]) < 300
    await api.assert_idle()


@pytest.mark.parametrize("path", ["/jobs", "/images/generations", "/tokenize"])
async def test_a_body_that_is_not_utf_8_says_so(api: Api, path: str) -> None:
    body = '{"prompt": "ein Bär"}'.encode("latin-1")
    error = problem(await api.http.post(path, content=body, headers={"Content-Type": "application/json"}), 400)
    assert (error["code"], error["param"], error["message"]) == (
        "invalid_value",
        None,
        "The body must be JSON in UTF-8.",
    )


@pytest.mark.parametrize("path", ["/jobs", "/images/generations", "/tokenize", "/hf/models/shapes"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
async def test_a_body_in_another_encoding_of_unicode_is_refused(api: Api, path: str, encoding: str) -> None:
    body = '{"prompt": "a circle", "inputs": "a circle"}'.encode(encoding)
    answer = await api.http.post(path, content=body, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    message = error if path.startswith("/hf/") else error["message"]
    assert (answer.status_code, message) == (400, "The body must be JSON in UTF-8.")
    await api.assert_idle()


async def test_a_byte_order_mark_before_utf_8_is_left_out(api: Api) -> None:
    body = '{"prompt": "ein Bär"}'.encode("utf-8-sig")
    answer = await api.http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["specs"][0]["prompt"]) == (202, "ein Bär")


@pytest.mark.parametrize("path", ["/jobs", "/images/generations"])
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_another_content_type_is_a_400_that_names_the_right_one(
    api: Api, path: str, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    error = problem(await api.http.post(path, content=b'{"prompt": "a"}', headers=headers), 400)
    assert error["param"] == "Content-Type"
    assert "must be application/json" in error["message"]
    await api.assert_idle()


async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 2**16):
        yield content[start : start + 2**16]


@pytest.mark.parametrize("path", ["/jobs", "/images/generations"])
@pytest.mark.parametrize("send", [bytes, in_chunks], ids=["with its length", "in chunks"])
async def test_a_body_of_two_megabytes_is_a_413(api: Api, path: str, send: Callable[[bytes], Any]) -> None:
    body = json.dumps({"prompt": "x" * 2**21}).encode()
    answer = await api.http.post(path, content=send(body), headers={"Content-Type": "application/json"})
    error = problem(answer, 413)
    assert error["code"] == "body_too_large"
    assert str(MAX_BODY) in error["message"]
    await api.assert_idle()


async def test_a_body_within_the_limit_is_read_whole(api: Api) -> None:
    body = json.dumps({"prompt": "a circle"}).encode().ljust(MAX_BODY)
    answer = await api.http.post("/jobs", content=in_chunks(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 202


@pytest.mark.parametrize("path", ["/", "/nothing", "/jobs/a/b/c", "/images", "/files/"])
async def test_an_unknown_path_is_a_404_in_the_same_shape(api: Api, path: str) -> None:
    error = problem(await api.http.get(path), 404)
    assert (error["code"], error["message"]) == (
        "http_404",
        "There is no such path. The paths are listed at /v1/docs.",
    )


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/queue"), ("PUT", "/jobs"), ("GET", "/images/generations")])
async def test_a_wrong_method_is_a_405_in_the_same_shape_that_names_the_right_one(
    api: Api, method: str, path: str
) -> None:
    answer = await api.http.request(method, path)
    assert answer.headers["allow"]
    assert problem(answer, 405)["message"] == f"This path takes {answer.headers['allow']}."


@pytest.mark.parametrize("path", ["/docs", "/docs/swagger-ui.css", "/openapi.json"])
async def test_a_wrong_method_on_a_path_that_is_not_described_is_a_405_too(api: Api, path: str) -> None:
    answer = await api.http.post(path, json={})
    assert answer.headers["allow"] == "GET, HEAD"
    assert problem(answer, 405)["message"] == "This path takes GET, HEAD."


async def test_an_unexpected_error_is_a_500_without_details(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.dispatcher, "_models", None)
    error = problem(await api.http.get("/models"), 500)
    assert (error["message"], error["code"]) == ("Something went wrong on our side.", "internal_error")
