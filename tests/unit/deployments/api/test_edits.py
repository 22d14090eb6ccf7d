"""OpenAI's edits and variations: images from an image."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from deployments.api.openai.fields import EDITS, OF_EDITS, EditBody
from deployments.api.sizes import size_like
from deployments.config import InputsConfig
from deployments.errors import InputNotFound, StoreUnavailable
from deployments.input_store import BRIEF_TTL_S, file_name, id_of
from deployments.nested_requests import InitRequest
from deployments.schema import GenerationRequest
from models.errors import NonFinite
from models.image_input import read_image
from tests.fakes import CARD, STEPS, until
from tests.image_files import photo, saved
from tests.unit.deployments.api.caller import Api, events, problem, size_of

OWNER = "peer:127.0.0.1"
IMAGE = saved(photo(192, 128), "PNG")
OPAQUE = saved(photo(192, 128, "RGBA").convert("RGB").convert("RGBA"), "PNG")


def with_hole(alpha: int = 0, size: tuple[int, int] = (192, 128), kind: str = "PNG") -> bytes:
    """An image whose left half has an alpha."""
    image = photo(*size).convert("RGBA")
    image.paste((1, 2, 3, alpha), (0, 0, size[0] // 2, size[1]))
    return saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))


HOLE = with_hole()


async def sent(api: Api, path: str, files: Any, fields: dict[str, Any], headers: Any = None) -> httpx.Response:
    files = {"image": ("image.png", IMAGE)} if files is None else files
    data = {name: str(value) for name, value in fields.items()}
    return await api.http.post(path, data=data, files=files, headers=headers)


async def edit(api: Api, files: Any = None, headers: Any = None, **fields: Any) -> httpx.Response:
    """Ask for an edit as OpenAI's clients do."""
    return await sent(api, "/images/edits", files, {"prompt": "a circle"} | fields, headers)


async def vary(api: Api, files: Any = None, **fields: Any) -> httpx.Response:
    return await sent(api, "/images/variations", files, fields)


def masked(mask: bytes = HOLE, image: bytes = IMAGE) -> dict[str, Any]:
    return {"image": ("image.png", image), "mask": ("mask.png", mask)}


def stored(api: Api, input_id: str) -> Image.Image:
    """An input of the caller's, as the stages read it."""
    return read_image(api.intake.files.get(file_name(OWNER, input_id)), 10**6)


async def kept(api: Api) -> list[str]:
    """The ids of the caller's inputs."""
    return [each["id"] for each in (await api.http.get("/inputs")).json()["data"]]


# -- what an edit means


async def test_an_edit_begins_with_the_image_that_was_sent(api: Api) -> None:
    answer = await edit(api, seed=7)
    body = answer.json()
    assert size_of(base64.b64decode(body["data"][0]["b64_json"])) == (4, 4)
    assert (body["data"][0]["seed"], body["size"], body["output_format"]) == (7, "192x128", "png")
    [spec] = api.pipeline.specs
    assert (spec.prompt, spec.init.input, spec.init.strength, spec.init.mask) == ("a circle", id_of(IMAGE), 0.75, None)
    assert api.intake.files.get(file_name(OWNER, id_of(IMAGE))) == IMAGE
    assert (await api.http.get(f"/jobs/{answer.headers['x-job-id']}")).json()["status"] == "succeeded"


async def test_what_is_transparent_in_the_mask_is_white_in_the_one_that_the_stages_get(api: Api) -> None:
    assert (await edit(api, masked())).status_code == 200
    [spec] = api.pipeline.specs
    assert (spec.init.input, spec.init.strength, spec.init.paste_back) == (id_of(IMAGE), 0.75, True)
    mask = np.array(stored(api, spec.init.mask))
    assert (mask[:, :96] == 255).all()
    assert (mask[:, 96:] == 0).all()


@pytest.mark.parametrize("alpha", [0, 127])
async def test_an_image_without_a_mask_is_made_anew_where_it_is_transparent(api: Api, alpha: int) -> None:
    assert (await edit(api, {"image": ("a.png", with_hole(alpha))})).status_code == 200
    [spec] = api.pipeline.specs
    assert (spec.init.strength, spec.init.paste_back) == (1.0, True)  # there is nothing beneath
    mask = np.array(stored(api, spec.init.mask))
    assert (set(mask[:, :96].flat), set(mask[:, 96:].flat)) == ({255}, {0})


async def test_a_soft_edge_of_a_transparent_part_is_made_anew_too(api: Api) -> None:
    image = photo(192, 128).convert("RGBA")
    image.putalpha(
        Image.fromarray(np.repeat([np.arange(192).clip(0, 255)], 128, 0).astype(np.uint8)).point(
            lambda a: min(255, 2 * a)
        )
    )
    assert (await edit(api, {"image": ("a.png", saved(image, "PNG"))})).status_code == 200
    mask = np.array(stored(api, api.pipeline.specs[0].init.mask))
    assert (mask[:, :125] == 255).all()  # an alpha of 248: there the image is mixed with white
    assert (mask[:, 125:] == 0).all()


@pytest.mark.parametrize("image", [OPAQUE, with_hole(alpha=128), saved(photo(192, 128), "JPEG")])
async def test_an_image_that_is_opaque_enough_is_made_anew_as_a_whole(api: Api, image: bytes) -> None:
    assert (await edit(api, {"image": ("a", image)})).status_code == 200
    assert (api.pipeline.specs[0].init.mask, api.pipeline.specs[0].init.paste_back) == (None, False)


async def test_an_edit_whose_white_the_caller_never_sent_is_warned_of(api: Api) -> None:
    clear, warning = with_hole(alpha=200), "image is transparent in places, which is white here."
    for files in ({"image": ("a", clear)}, masked(image=clear)):
        assert (await edit(api, files)).json()["warnings"] == [warning]
        [*_, (_, completed)] = events(await edit(api, files, stream="true"))
        assert completed["warnings"] == [warning]
    assert (await vary(api, {"image": ("a", HOLE)})).json()["warnings"] == [warning]
    for files in ({"image": ("a", HOLE)}, masked()):  # where alpha is the mask, nothing white is left
        assert "warnings" not in (await edit(api, files)).json()


async def test_a_mask_wins_over_the_transparency_of_its_image(api: Api) -> None:
    right = photo(192, 128).convert("RGBA")
    right.paste((0, 0, 0, 0), (96, 0, 192, 128))
    assert (await edit(api, masked(saved(right, "PNG"), image=HOLE))).status_code == 200
    [spec] = api.pipeline.specs
    assert (spec.init.strength, np.array(stored(api, spec.init.mask))[0, 0, 0]) == (0.75, 0)


async def test_what_the_caller_says_wins_over_what_a_mask_implies(api: Api) -> None:
    answer = await edit(api, {"image": ("a", HOLE)}, strength=0.5, mask_blur=9, resize_mode="fit")
    assert answer.status_code == 200
    init = api.pipeline.specs[0].init
    assert (init.strength, init.paste_back, init.mask_blur, init.resize_mode) == (0.5, True, 9, "fit")
    assert (await edit(api, {"image": ("a", HOLE)}, paste_back="false")).status_code == 200
    assert api.pipeline.specs[1].init.paste_back is False
    refused = problem(await edit(api, {"image": ("a", HOLE)}, paste_back="false", area="masked"), 400)
    assert refused["param"] == "paste_back"


async def test_every_field_reaches_the_pipeline(api: Api) -> None:
    answer = await edit(
        api,
        model="shapes",
        size="256x128",
        negative_prompt="square",
        num_inference_steps=3,
        guidance_scale=2.5,
        sampler="euler",
        style="flat",
        output_format="webp",
        output_compression=30,
        background="opaque",
        input_fidelity="low",
        moderation="auto",
        user="somebody",
        seed=1,
        n=2,
        response_format="url",
        strength=0.5,
    )
    assert [set(image) for image in answer.json()["data"]] == [{"url", "seed"}] * 2
    spec = api.pipeline.specs[0]
    assert (spec.width, spec.num_inference_steps, spec.guidance_scale, spec.sampler) == (256, 3, 2.5, "euler")
    assert (spec.prompt, spec.negative_prompt) == ("a circle, flat design", "square")
    assert (spec.output_format, spec.output_compression, spec.init.strength) == ("webp", 30, 0.5)


async def test_an_object_is_sent_as_json(api: Api) -> None:
    error = problem(await edit(api, hires='{"scale": 2}'), 400)
    assert error["message"].startswith("hires must be left out for images of 192x128")  # it was read
    error = problem(await edit(api, hires="2x"), 400)
    assert (error["param"], error["message"]) == ("hires", "hires must be JSON.")
    assert problem(await edit(api, hires='{"scale": "x"}'), 400)["param"] == "hires.scale"


async def test_an_object_is_sent_member_by_member_as_openais_client_does(api: Api) -> None:
    error = problem(await edit(api, **{"hires[scale]": 1.5, "hires[steps]": 3, "hires[upscaler]": "lanczos"}), 400)
    assert error["message"].startswith("hires must be left out for images of 192x128")  # it was read
    error = problem(await edit(api, **{"hires[scale]": 9, "hires[steps]": 3}), 400)
    assert (error["param"], error["message"]) == ("hires.scale", "hires.scale must be 4 or less, got 9.")
    assert problem(await edit(api, **{"hires[upscaler]": "lanczos"}), 400)["message"] == "hires.scale is required."
    assert (
        problem(await edit(api, **{"hires[scale]": 2, "hires[size]": 2}), 400)["message"]
        == "hires.size is not a known field."
    )


@pytest.mark.parametrize("names", [["hires", "hires[scale]"], ["hires[scale]", "hires"], ["hires[scale]"] * 2])
async def test_an_object_is_sent_in_one_of_the_two_ways(api: Api, names: list[str]) -> None:
    texts = {"hires": '{"scale": 2}', "hires[scale]": "2"}
    error = problem(await edit(api, [("image", FILE), *((name, (None, texts[name])) for name in names)]), 400)
    assert (error["param"], error["message"]) == ("hires", "hires must be sent once.")


def test_the_fields_are_those_of_requests_and_of_images_to_begin_with() -> None:
    own = set(GenerationRequest.model_fields) - {"init", *EDITS.names}
    assert own | set(InitRequest.model_fields) - {"input", "mask"} <= set(EditBody.model_fields)
    assert not set(OF_EDITS) & set(EDITS.names)


async def test_a_quality_is_a_number_of_steps(api: Api) -> None:
    assert (await edit(api, quality="high")).json()["quality"] == "high"
    assert api.pipeline.specs[0].num_inference_steps == 2 * STEPS


@pytest.mark.parametrize("files", [None, masked()])
async def test_a_stream_has_previews_and_the_image_in_events_of_edits(api: Api, files: Any) -> None:
    api.pipeline.preview_at = (4,)
    found = events(await edit(api, files, stream="true", partial_images=1, seed=7))
    assert {name for name, _ in found} <= {"image_edit.partial_image", "image_edit.completed"}
    assert all(data["type"] == name for name, data in found)
    assert (found[-1][0], found[-1][1]["seed"]) == ("image_edit.completed", 7)
    assert size_of(base64.b64decode(found[-1][1]["b64_json"])) == (4, 4)


@pytest.mark.parametrize("stream", ["True", "False"])  # as Python writes them
async def test_a_job_that_fails_is_an_error_with_and_without_a_stream(api: Api, stream: str) -> None:
    api.pipeline.problems = [NonFinite("The picture turned into NaN.")]
    answer = await edit(api, stream=stream)
    error = events(answer)[-1][1]["error"] if stream == "True" else problem(answer, 500)
    assert error["code"] == "non_finite"


# -- sizes


@pytest.mark.parametrize(
    ("image", "size"),
    [((192, 128), (192, 128)), ((384, 256), (192, 128)), ((20, 10), (256, 128)), ((1000, 10), (256, 128))],
)
async def test_without_a_size_the_image_has_the_shape_of_the_one_that_was_sent(
    api: Api, image: tuple[int, int], size: tuple[int, int]
) -> None:
    file = ("a", saved(photo(*image), "PNG"))
    expected = 'size: image has {}x{}; with auto, model "shapes" makes {}x{} of it.'.format(*image, *size)
    for fields in ({}, {"size": "auto"}):
        body = (await edit(api, {"image": file}, **fields)).json()
        assert body.get("warnings", []) == ([] if image == size else [expected])
    assert {(spec.width, spec.height) for spec in api.pipeline.specs} == {size}


async def test_a_stream_and_a_variation_warn_of_another_size_and_a_part_or_a_size_that_is_named_does_not(
    api: Api,
) -> None:
    large = photo(384, 256)
    file = {"image": ("a", saved(large, "PNG"))}
    warning = 'size: image has 384x256; with auto, model "shapes" makes 192x128 of it.'
    assert (await vary(api, file)).json()["warnings"] == [warning]
    assert events(await edit(api, file, stream="true"))[-1][1]["warnings"] == [warning]
    part = masked(with_hole(size=(384, 256)), saved(large, "PNG"))
    for files, fields in ((file, {"size": "192x128"}), (part, {"area": "masked"})):
        assert "warnings" not in (await edit(api, files, **fields)).json()


@pytest.mark.parametrize(
    ("image", "size"),
    [
        ((1024, 1024), (1024, 1024)),
        ((832, 1216), (832, 1216)),
        ((4000, 3000), (1184, 888)),
        ((4000, 2250), (1368, 768)),
        ((2048, 2048), (1024, 1024)),
        ((64, 64), (1024, 1024)),
        ((100, 10000), (512, 2048)),
    ],
)
def test_a_size_like_another_one_has_its_shape_and_about_the_models_own_pixels(
    image: tuple[int, int], size: tuple[int, int]
) -> None:
    defaults = CARD.defaults | {"width": 1024, "height": 1024}
    bounds = {"width": (512, 2048), "height": (512, 2048)}
    assert size_like(replace(CARD, defaults=defaults, bounds=bounds, size_multiple=8), image) == size


async def test_a_size_that_the_model_does_not_have_is_refused_or_the_nearest_is_used(tmp_path: Path) -> None:
    error = problem(await edit(Api(tmp_path / "exact"), size="1024x1024"), 400)
    assert (error["param"], "from 64x128 to 256x128" in error["message"]) == ("size", True)
    body = (await edit(Api(tmp_path / "nearest", sizes="nearest"), size="1024x1024")).json()
    assert (body["size"], "the nearest one, was used" in body["warnings"][0]) == ("128x128", True)


# -- variations


async def test_a_variation_begins_with_the_image_and_has_no_prompt(api: Api) -> None:
    answer = await vary(api, n=2, response_format="url", user="somebody", model="shapes", size="128x128", seed=7)
    assert [image["seed"] for image in answer.json()["data"]] == [7, 8]
    spec = api.pipeline.specs[0]
    assert (spec.prompt, spec.init.input, spec.init.mask, spec.width) == ("", id_of(IMAGE), None, 128)


async def test_a_variation_of_a_transparent_image_is_of_the_whole_image(api: Api) -> None:
    assert (await vary(api, {"image": ("a", HOLE)}, strength=0.4)).status_code == 200
    assert (api.pipeline.specs[0].init.mask, api.pipeline.specs[0].init.strength) == (None, 0.4)


@pytest.mark.parametrize("field", ["prompt", "stream", "partial_images", "svg"])
async def test_what_variations_do_not_have_is_refused_with_the_reason(api: Api, field: str) -> None:
    error = problem(await vary(api, **{field: "1"}), 400)
    assert (error["param"], "is not supported here: " in error["message"]) == (field, True)
    said = "mask is not supported here: POST /v1/images/edits takes one."
    assert problem(await vary(api, masked()), 400)["message"] == said
    await api.assert_idle()


async def test_jobs_without_a_prompt_are_still_refused(api: Api) -> None:
    body = {"prompt": "", "init": {"input": id_of(IMAGE)}}
    assert problem(await api.http.post("/jobs", json=body), 400)["param"] == "prompt"


# -- what is refused


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": ""}, "prompt", "prompt must not be empty."),
        ({"prompt": " "}, "prompt", "prompt must not be blank, got ' '."),
        ({"n": 20}, "n", "n must be 10 or less, got 20."),
        ({"n": "two"}, "n", "n must be an integer, got 'two'."),
        ({"n": "true"}, "n", "n must be an integer, got true."),
        ({"strength": 2}, "strength", "strength must be 1 or less, got 2."),
        ({"strength": "NaN"}, "strength", "strength must be a finite number, got nan."),
        ({"strength": 0.001}, "strength", "strength must be 0.125 or more: of 8 steps 0.001 is less than one."),
        ({"num_inference_steps": 0}, "num_inference_steps", "num_inference_steps must be 1 or more, got 0."),
        ({"sampler": "lcm"}, "sampler", "sampler must be one of ddim, euler for shapes, got lcm."),
        ({"mask_blur": 3}, "mask_blur", "mask_blur must be left out without a mask, got 3."),
        ({"paste_back": "true"}, "paste_back", "paste_back must be left out without a mask, got true."),
        ({"paste_back": "maybe"}, "paste_back", "paste_back must be true or false, got 'maybe'."),
        ({"stream": "yes"}, "stream", "stream must be true or false, got 'yes'."),
        ({"stream": "true", "n": 2}, "n", "n must be 1 when stream is true."),
        ({"partial_images": 1}, "partial_images", "partial_images must be 0 unless stream is true."),
        ({"background": "transparent"}, "background", "background must be 'auto' or 'opaque', got 'transparent'."),
        (
            {"input_fidelity": "high"},
            "input_fidelity",
            "input_fidelity must be low: strength says how close to the image it stays, got 'high'.",
        ),
        ({"init": "{}"}, "init", "init is not a known field."),
        ({"init[strength]": 0.4}, "init[strength]", "init[strength] is not a known field: send strength."),
        ({"seed[hires]": 4}, "seed[hires]", "seed[hires] is not a known field: send hires."),
        ({"hires[scale][x]": 4}, "hires[scale][x]", "hires[scale][x] is not a known field."),
        ({"size[w]": 4}, "size[w]", "size[w] is not a known field."),
        ({"colour": "red"}, "colour", "colour is not a known field."),
    ],
)
async def test_a_field_that_is_wrong_is_named_as_it_was_sent(
    api: Api, fields: dict[str, Any], param: str, message: str
) -> None:
    error = problem(await edit(api, **fields), 400)
    assert (error["param"], error["message"]) == (param, message)
    assert await kept(api) == []
    await api.assert_idle()


FILE = ("a.png", IMAGE)


@pytest.mark.parametrize(
    ("files", "param", "words"),
    [
        ([("image", FILE), ("image", FILE)], "image", "image must be one file; got 2."),
        ([("image[]", FILE), ("image[]", FILE)], "image", "image must be one file; got 2."),
        ([("image[]", FILE), ("image", FILE)], "image", "image must be one file; got 2."),
        ([("image", FILE), ("mask", FILE), ("mask", FILE)], "mask", "mask must be one file; got 2."),
        ([("mask", FILE)], "image", "image is required: a file."),
        ([("image", (None, "input_0"))], "image", "image must be a file, with a file name in its part."),
        ([("image", FILE), ("mask", (None, "https://example.org/a.png"))], "mask", "mask must be a file"),
        ([("image", FILE), ("user", FILE)], "user", "user must be text, and no file."),
        ([("image", FILE), ("control", FILE)], "control", "control is not a known field."),
        ([("image", FILE), ("n", (None, "1")), ("n", (None, "2"))], "n", "n must be sent once."),
        ([("image", FILE)] * 40, None, "The body must be multipart/form-data with a file, image, and "),
        ([("image", ("a.png", b""))], "image", "image: "),
        ([("image", ("a.png", IMAGE[:-30]))], "image", "image: "),
        ([("image", ("a.gif", saved(photo(), "GIF")))], "image", "image: "),
        ([("image", FILE), ("mask", ("a.png", IMAGE[:90]))], "mask", "mask: "),
        ([("image", FILE), ("mask", FILE)], "mask", "mask must be a PNG or WebP file, transparent where"),
        ([("image", FILE), ("mask", ("a.png", OPAQUE))], "mask", "mask must be a PNG or WebP file, transparent where"),
        (
            [("image", FILE), ("mask", ("a.png", with_hole(size=(128, 192))))],
            "mask",
            "mask must have 192x128 pixels, as image; got 128x192.",
        ),
    ],
)
async def test_files_that_cannot_be_used_are_refused_with_the_reason(
    api: Api, files: Any, param: str | None, words: str
) -> None:
    error = problem(await edit(api, files), 400)
    assert (error["param"], error["message"].startswith(words)) == (param, True), error["message"]
    assert await kept(api) == []
    await api.assert_idle()


RAW = {"content": IMAGE, "headers": {"Content-Type": "image/png"}}


@pytest.mark.parametrize("sent", [{"json": {"prompt": "a"}}, RAW, {}])
async def test_a_body_that_is_no_form_is_refused(api: Api, sent: dict[str, Any]) -> None:
    error = problem(await api.http.post("/images/edits", **sent), 400)
    assert (error["param"], "multipart/form-data" in error["message"]) == ("Content-Type", True)


@pytest.mark.parametrize("charset", ["utf-16", "undefined", "hex", "a\0b"])
async def test_a_form_in_another_charset_is_refused(api: Api, charset: str) -> None:
    kind = f"multipart/form-data; boundary=x; charset={charset}".encode()
    answer = await api.http.post("/images/edits", content=b"--x--", headers=[(b"content-type", kind)])
    assert problem(answer, 400)["param"] == "Content-Type"


async def test_a_file_and_a_body_that_are_too_large_are_refused(tmp_path: Path) -> None:
    api = Api(tmp_path, inputs=InputsConfig(max_input_bytes=1000))
    error = problem(await edit(api), 413)
    assert (error["param"], error["message"]) == ("image", f"image must be at most 1000 bytes; got {len(IMAGE)}.")
    large = {"image": ("a", IMAGE + b"x" * 10**6)}
    assert "The body must be at most" in problem(await edit(api, large), 413)["message"]


async def test_an_image_is_turned_before_it_is_compared_with_its_mask(api: Api) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = saved(photo(128, 192), "JPEG", exif=exif)
    assert (await edit(api, masked(image=upright))).status_code == 200


# -- inputs that come with a request


async def test_an_image_that_came_with_a_request_is_kept_for_its_job_and_then_briefly(api: Api) -> None:
    api.pipeline.hold()
    running = asyncio.create_task(edit(api, masked()))
    await until(lambda: api.pipeline.running)
    inputs = (await api.http.get("/inputs")).json()["data"]
    assert len(inputs) == 2
    for each in inputs:
        assert each["expires"] - each["created"] == pytest.approx(BRIEF_TTL_S)
        assert problem(await api.http.delete(f"/inputs/{each['id']}"), 409)["code"] == "input_in_use"
    api.pipeline.let_go()
    assert (await running).status_code == 200


async def test_what_came_with_a_request_that_is_refused_is_deleted_at_once(api: Api) -> None:
    assert problem(await edit(api, masked(), model="magic"), 404)["param"] == "model"
    assert await kept(api) == []
    assert list(api.intake.files.names(before=float("inf"))) == []


async def test_what_a_refused_request_shares_with_others_is_not_deleted(api: Api) -> None:
    uploaded = (await api.http.post("/inputs", files={"file": ("a", IMAGE)})).json()["id"]
    assert problem(await edit(api, model="magic"), 404)
    assert await kept(api) == [uploaded]


async def test_an_image_that_another_refused_request_deletes_meanwhile_is_kept_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, tries = api.dispatcher.submit, []

    async def overtaken(*args: Any) -> Any:
        tries.append(args)
        if len(tries) == 1:
            await api.dispatcher.delete_input(id_of(IMAGE), OWNER)
        return await submit(*args)

    monkeypatch.setattr(api.dispatcher, "submit", overtaken)
    assert (await edit(api)).status_code == 200
    assert len(tries) == 2


async def test_an_image_that_is_always_deleted_meanwhile_is_refused_in_the_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> Any:
        raise InputNotFound("init.input must be the id of an input.", "init.input")

    monkeypatch.setattr(api.dispatcher, "submit", refuse)
    error = problem(await edit(api), 404)
    assert (error["param"], error["message"]) == ("image", "image must be the id of an input.")


async def test_a_repeated_request_gives_its_job_again_after_its_inputs_have_gone(api: Api) -> None:
    headers = {"Idempotency-Key": "order-17"}
    first = await edit(api, masked(), headers, seed=7)
    for input_id in await kept(api):
        assert (await api.http.delete(f"/inputs/{input_id}")).status_code == 204
    again = await edit(api, masked(), headers, seed=7)
    assert again.headers["x-job-id"] == first.headers["x-job-id"]
    assert again.json()["data"] == first.json()["data"]
    assert (len(api.pipeline.started), await kept(api)) == (1, [])
    for other in ({"seed": 8}, {"files": masked(with_hole(kind="WEBP"), OPAQUE)}):
        files = other.pop("files", masked())
        answer = await edit(api, files, headers, **({"seed": 7} | other))
        assert problem(answer, 422)["code"] == "idempotency_key_reused"
    assert await kept(api) == []


async def test_a_repeated_request_is_answered_when_there_is_no_room_for_its_inputs(tmp_path: Path) -> None:
    api = Api(tmp_path, inputs=InputsConfig(max_owner_bytes=200_000))
    first = await edit(api, None, {"Idempotency-Key": "order-17"})
    await api.http.delete(f"/inputs/{id_of(IMAGE)}")
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (230, 230, 3), np.uint8))
    assert (await api.http.post("/inputs", files={"file": ("a", saved(noise, "PNG"))})).status_code == 201
    error = problem(await edit(api), 429)
    assert error["code"] == "input_quota_exceeded"
    again = await edit(api, None, {"Idempotency-Key": "order-17"})
    assert again.headers["x-job-id"] == first.headers["x-job-id"]


async def test_a_store_that_fails_leaves_the_input_to_expire(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> Any:
        raise StoreUnavailable("it is gone")

    monkeypatch.setattr(api.dispatcher, "submit", fail)
    monkeypatch.setattr(api.dispatcher, "delete_input", fail)
    assert problem(await edit(api), 503)["code"] == "store_unavailable"
    assert await kept(api) == [id_of(IMAGE)]


async def test_forms_that_are_damaged_anywhere_are_answered(api: Api) -> None:
    request = api.http.build_request("POST", "/images/edits", data={"prompt": "a", "n": "1"}, files=masked())
    content, kind = request.read(), request.headers["content-type"]
    random = np.random.default_rng(7)
    for _ in range(300):
        damaged = bytearray(content)
        for at in random.integers(0, len(content) if random.random() < 0.5 else 400, 3):
            damaged[at] = random.integers(0, 256)
        if random.random() < 0.3:
            del damaged[random.integers(0, len(damaged)) :]
        answer = await api.http.post("/images/edits", content=bytes(damaged), headers={"Content-Type": kind})
        if answer.status_code != 200:  # damage may make one text of two
            assert problem(answer, 400)["message"].endswith((".", "?"))
