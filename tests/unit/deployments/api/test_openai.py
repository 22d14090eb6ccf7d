"""OpenAI's dialect."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.api.openai.fields import ImagesBody, to_request
from deployments.dispatcher import client as client_module
from deployments.resolution import resolve
from models.errors import InvalidRequest, NonFinite, Refused
from tests.fakes import CARD, STEPS, a_preview, settled, until
from tests.unit.deployments.api.caller import Api, events, problem, size_of


async def test_a_prompt_gives_a_picture(api: Api) -> None:
    answer = await api.generate(seed=7)
    assert answer.status_code == 200
    body = answer.json()
    assert size_of(base64.b64decode(body["data"][0]["b64_json"])) == (4, 4)
    assert body["data"][0]["seed"] == 7
    assert (body["size"], body["output_format"]) == ("128x128", "png")
    assert "warnings" not in body
    assert body["created"] > 1_700_000_000


async def test_several_pictures_have_seeds_in_a_row(api: Api) -> None:
    body = (await api.generate(n=2, seed=7, response_format="url")).json()
    assert [image["seed"] for image in body["data"]] == [7, 8]
    files = [await api.http.get(image["url"].replace("/v1", "", 1)) for image in body["data"]]
    assert [file.status_code for file in files] == [200, 200]
    assert files[0].content != files[1].content
    assert all("b64_json" not in image for image in body["data"])


async def test_every_field_of_the_dialect_reaches_the_pipeline(api: Api) -> None:
    answer = await api.generate(
        model="shapes",
        size="192x128",
        negative_prompt="square",
        num_inference_steps=3,
        guidance_scale=0,
        sampler="euler",
        style="flat",
        output_format="webp",
        user="somebody",
        seed=1,
    )
    assert answer.status_code == 200
    [spec] = api.pipeline.specs
    assert (spec.width, spec.height, spec.num_inference_steps, spec.guidance_scale) == (192, 128, 3, 0)
    assert (spec.prompt, spec.negative_prompt, spec.sampler) == ("a circle, flat design", "square", "euler")
    assert answer.json()["output_format"] == "webp"


async def test_what_openais_clients_leave_out_or_send_as_null_is_open(api: Api) -> None:
    assert (await api.generate(model=None, seed=None, style=None, user=None, size="auto")).status_code == 200
    assert api.pipeline.specs[0].num_inference_steps == STEPS


async def test_a_cut_prompt_is_told_in_the_answer(api: Api) -> None:
    api.pipeline.cut = {"prompt": "and a star"}
    assert "“and a star”" in (await api.generate()).json()["warnings"][0]


@pytest.mark.parametrize(
    "prompt",
    [
        "ein roter Kreis, groß",
        "红色圆圈",
        "دائرة حمراء",
        "🔴 👩‍👩‍👧",
        "\"'`<b>&amp;\\ {prompt}",
        "line\nline\ttab",
        "x" * 4000,
    ],
)
async def test_a_prompt_in_any_script_gives_a_picture(api: Api, prompt: str) -> None:
    assert (await api.generate(prompt=prompt)).status_code == 200
    assert api.pipeline.specs[0].prompt == prompt
    job = await api.submit(prompt=prompt)
    assert (await api.ended(job))["specs"][0]["prompt"] == prompt


async def streamed(api: Api, partial_images: int, previews: tuple[int, ...]) -> list[tuple[str, Any]]:
    """The events of a picture with a preview at some steps, each step seen by whoever watches."""
    api.pipeline.preview_at = previews
    api.pipeline.hold()
    request = asyncio.create_task(api.generate(stream=True, partial_images=partial_images, seed=7))
    for step in range(1, STEPS + 1):
        await until(lambda: api.pipeline.running)
        await settled()
        api.pipeline.allow(1)
        await until(lambda step=step: api.pipeline.forwards == step)
        await settled()
    return events(await request)


@pytest.mark.parametrize(
    ("partial_images", "previews", "shown"),
    [
        (0, (2, 4, 6), ()),
        (1, (2, 4, 6), (4,)),
        (2, (2, 4, 6), (2, 6)),
        (3, (2, 4, 6), (2, 4, 6)),
        (1, range(1, STEPS), (4,)),
        (2, range(1, STEPS), (3, 6)),
        (3, range(1, STEPS), (2, 4, 6)),
        (3, (1,), (1,)),
        (3, (7,), (7,)),
        (3, (), ()),
    ],
)
async def test_a_stream_has_the_wanted_previews_spread_over_the_steps_and_then_the_picture(
    api: Api, partial_images: int, previews: Sequence[int], shown: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WATCH_INTERVAL_S", 0)
    found = await streamed(api, partial_images, tuple(previews))
    assert [name for name, _ in found] == ["image_generation.partial_image"] * len(shown) + [
        "image_generation.completed"
    ]
    assert all(data["type"] == name for name, data in found)
    assert [data["partial_image_index"] for _, data in found[:-1]] == list(range(len(shown)))
    assert [base64.b64decode(data["b64_json"]) for _, data in found[:-1]] == [a_preview(step) for step in shown]
    assert [data["size"] for _, data in found[:-1]] == [f"{step}x{step}" for step in shown]  # not the image's
    assert size_of(base64.b64decode(found[-1][1]["b64_json"])) == (4, 4)
    assert (found[-1][1]["seed"], found[-1][1]["size"]) == (7, "128x128")


async def test_the_id_of_the_job_is_in_the_headers_and_in_each_event(api: Api) -> None:
    api.pipeline.preview_at = (4,)
    streaming = await api.generate(stream=True, partial_images=1)
    plain = await api.generate()
    newest_first = [job["id"] for job in (await api.http.get("/jobs")).json()["data"]]
    assert [answer.headers["x-job-id"] for answer in (plain, streaming)] == newest_first
    assert {data["job_id"] for _, data in events(streaming)} == {newest_first[1]}


async def test_proxies_are_told_not_to_hold_a_stream_back(api: Api) -> None:
    job = await api.submit()
    for answer in (await api.generate(stream=True), await api.http.get(f"/jobs/{job['id']}/watch")):
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (NonFinite("The picture turned into NaN."), 500, "non_finite", "The picture turned into NaN."),
        (Refused("The image shows a weapon."), 400, "image_refused", "The image shows a weapon."),
        (ValueError("secret"), 500, "internal_error", "Something went wrong on our side."),
    ],
)
async def test_a_job_that_fails_is_an_error_with_and_without_a_stream(
    api: Api, error: Exception, status: int, code: str, message: str
) -> None:
    api.pipeline.problems = [error, error]
    plain = problem(await api.generate(), status)
    assert (plain["code"], plain["message"]) == (code, message)
    [(name, data)] = events(await api.generate(stream=True))
    assert (name, data) == ("message", {"error": plain})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_job_that_fails_by_its_request_names_the_field_as_the_caller_sent_it(api: Api, stream: bool) -> None:
    api.pipeline.problems = [InvalidRequest("width: batch_invariant cannot be kept at 128x128.", "width")]
    answer = await api.generate(stream=stream)
    error = events(answer)[-1][1]["error"] if stream else problem(answer, 400)
    assert (error["message"], error["param"]) == ("size: batch_invariant cannot be kept at 128x128.", "size")
    [job] = (await api.http.get("/jobs")).json()["data"]
    assert (job["error"]["message"], job["error"]["param"]) == (error["message"].replace("size", "width"), "width")


async def test_a_request_whose_job_is_cancelled_is_answered(api: Api) -> None:
    api.pipeline.hold()
    request = asyncio.create_task(api.generate())
    await until(lambda: api.pipeline.running)
    [job] = (await api.http.get("/jobs")).json()["data"]
    assert (await api.http.post(f"/jobs/{job['id']}/cancel")).status_code == 200
    assert problem(await request, 409)["code"] == "job_ended"


async def test_one_stream_shows_one_picture(api: Api) -> None:
    assert problem(await api.generate(stream=True, n=2), 400)["param"] == "n"


async def test_a_stream_has_no_addresses_and_is_asked_for_by_a_boolean(api: Api) -> None:
    assert problem(await api.generate(stream=True, response_format="url"), 400)["param"] == "response_format"
    assert problem(await api.generate(stream="yes"), 400)["message"] == "stream must be true or false, got 'yes'."
    await api.assert_idle()


async def test_previews_without_a_stream_are_refused(api: Api) -> None:
    for fields in ({"partial_images": 2}, {"partial_images": 1, "stream": False}):
        error = problem(await api.generate(**fields), 400)
        said = "partial_images must be 0 unless stream is true."
        assert (error["param"], error["message"]) == ("partial_images", said)
    await api.assert_idle()
    assert (await api.generate(partial_images=0)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_quality_beside_a_number_of_steps_is_warned_of(api: Api, stream: bool) -> None:
    answer = await api.generate(quality="hd", num_inference_steps=3, stream=stream)
    body = events(answer)[-1][1] if stream else answer.json()
    assert body["warnings"] == ["quality: hd has no effect, as num_inference_steps is set."]
    assert "warnings" not in (await api.generate(quality="auto", num_inference_steps=3)).json()


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"quality": "auto"}, STEPS),
        ({"quality": "standard"}, STEPS),
        ({"quality": None}, STEPS),
        ({"quality": "low"}, STEPS // 2),
        ({"quality": "high"}, STEPS * 2),
        ({"quality": "xhigh"}, STEPS * 2),
        ({"quality": "max"}, STEPS * 2),
        ({"quality": "hd"}, STEPS * 2),
        ({"quality": "hd", "num_inference_steps": 3}, 3),
    ],
)
async def test_a_quality_is_a_number_of_steps(api: Api, fields: dict[str, Any], steps: int) -> None:
    answer = await api.generate(**fields)
    assert api.pipeline.specs[0].num_inference_steps == steps
    assert answer.json()["quality"] == (fields["quality"] or "auto")


@pytest.mark.parametrize(
    ("fields", "changes", "steps"),
    [
        ({"quality": "high"}, {"bounds": {"num_inference_steps": (30, 60)}}, 60),
        ({"quality": "low"}, {"bounds": {"num_inference_steps": (30, 60)}}, 30),
        ({"quality": "high", "sampler": "lcm"}, {}, 50),
        ({"quality": "high"}, {"sampler": "lcm"}, 50),
        ({"quality": "high", "sampler": "ddim"}, {"sampler": "lcm"}, 80),
        ({"quality": "high"}, {"num_inference_steps": 100}, 150),
    ],
)
def test_a_quality_means_no_more_steps_than_model_and_sampler_allow(
    fields: dict[str, Any], changes: dict[str, Any], steps: int
) -> None:
    defaults = CARD.defaults | {"num_inference_steps": 40} | changes
    bounds = defaults.pop("bounds", {})
    card = replace(CARD, defaults=defaults, bounds=bounds, samplers=("ddim", "lcm"))
    [spec] = resolve(to_request(ImagesBody(prompt="a", **fields), card), card)
    assert spec.num_inference_steps == steps


async def test_what_is_harmless_is_accepted_and_changes_nothing(api: Api) -> None:
    answer = await api.generate(
        background="opaque",
        moderation="low",
        user="somebody",
        safety_identifier="somebody",
        style="vivid",
        complexity="high",
        effort="xhigh",
        svg=None,
    )
    assert answer.status_code == 200
    assert api.pipeline.specs[0].prompt == "a circle"


@pytest.mark.parametrize(
    ("field", "value"), [("svg", {"model": "author"}), ("frame_count", 3), ("frame_duration_ms", 9)]
)
async def test_what_openai_has_and_we_have_not_is_refused_with_the_reason(api: Api, field: str, value: object) -> None:
    error = problem(await api.generate(**{field: value}), 400)
    assert (error["param"], "is not supported here" in error["message"]) == (field, True)
    await api.assert_idle()
    assert (await api.generate(**{field: None})).status_code == 200


@pytest.mark.parametrize(("field", "value"), [("background", "transparent"), ("output_format", "svg")])
async def test_what_cannot_be_drawn_is_refused(api: Api, field: str, value: str) -> None:
    assert problem(await api.generate(**{field: value}), 400)["param"] == field
    await api.assert_idle()


async def test_a_compression_is_of_files_that_lose_something(api: Api) -> None:
    assert (await api.generate(output_format="webp", output_compression=30)).status_code == 200
    assert (await api.generate(output_compression=100)).status_code == 200
    assert [spec.output_compression for spec in api.pipeline.specs] == [30, 100]
    assert problem(await api.generate(output_compression=30), 400)["param"] == "output_compression"
    assert problem(await api.generate(output_format="jpeg", output_compression=101), 400)["param"] == (
        "output_compression"
    )


# -- the operator's opt-in: other names, nearest sizes


@pytest.fixture
async def opted_in(tmp_path: Path) -> Api:
    """An API with names of OpenAI's for its model, which takes any size."""
    return Api(tmp_path, aliases={"dall-e-3": "shapes", "gpt-image-1": "shapes"}, sizes="nearest")


@pytest.mark.parametrize("path", ["/images/generations", "/jobs", "/hf/models/dall-e-3", "/tokenize"])
async def test_an_alias_names_its_model_in_each_dialect(opted_in: Api, path: str) -> None:
    body = {"inputs": "a circle"} if "hf" in path else {"prompt": "a circle", "model": "dall-e-3"}
    answer = await opted_in.http.post(path, json=body)
    assert answer.status_code in (200, 202), answer.text
    if path == "/jobs":
        assert answer.json()["specs"][0]["model"] == "shapes"


async def test_aliases_are_listed_as_models(opted_in: Api) -> None:
    listed = (await opted_in.http.get("/models")).json()["data"]
    assert [model["id"] for model in listed] == ["shapes", "dall-e-3", "gpt-image-1"]
    assert listed[0]["capabilities"] == listed[1]["capabilities"]
    assert listed[0]["capabilities"]["aliases"] == ["dall-e-3", "gpt-image-1"]
    assert (await opted_in.http.get("/models/dall-e-3")).json() == listed[1]
    assert (await opted_in.http.get("/hf/models/dall-e-3/health")).json() == {"status": "ok"}
    assert "served: shapes, dall-e-3, gpt-image-1" in problem(await opted_in.generate(model="dall-e-2"), 404)["message"]


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"model": "dall-e-3"}, "url"),
        ({"model": "dall-e-3", "response_format": None}, "url"),
        ({"model": "dall-e-3", "response_format": "b64_json"}, "b64_json"),
        ({"model": "gpt-image-1"}, "b64_json"),
        ({"model": "gpt-image-1", "response_format": "url"}, "url"),
        ({}, "b64_json"),
    ],
)
async def test_models_named_as_dall_e_answer_with_an_address_unless_told_otherwise(
    opted_in: Api, fields: dict[str, Any], content: str
) -> None:
    [image] = (await opted_in.generate(**fields)).json()["data"]
    assert set(image) == {content, "seed"}


@pytest.mark.parametrize(
    ("size", "used"), [("1024x1024", "128x128"), ("1792x1024", "192x128"), ("1024x1792", "64x128"), ("1x1", "128x128")]
)
async def test_with_nearest_sizes_the_nearest_one_is_used_and_said(opted_in: Api, size: str, used: str) -> None:
    body = (await opted_in.generate(size=size)).json()
    assert body["size"] == used
    assert body["warnings"] == [f'size: {size} is not a size of model "shapes"; {used}, the nearest one, was used.']
    [(_, event)] = events(await opted_in.generate(size=size, stream=True))
    assert (event["size"], event["warnings"]) == (used, body["warnings"])


@pytest.mark.parametrize("size", ["auto", "192x128"])
async def test_with_nearest_sizes_an_allowed_one_is_kept_without_a_warning(opted_in: Api, size: str) -> None:
    body = (await opted_in.generate(size=size)).json()
    assert body["size"] == ("128x128" if size == "auto" else size)
    assert "warnings" not in body


async def test_nearest_sizes_are_of_openais_dialect_alone(opted_in: Api) -> None:
    assert problem(await opted_in.http.post("/jobs", json={"prompt": "a", "width": 1024}), 400)["param"] == "width"
