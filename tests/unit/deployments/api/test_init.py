"""Jobs that begin with an image, over HTTP."""

from typing import Any

import pytest
from PIL import Image

from models.parameters import MASK_RULES
from tests.image_files import saved
from tests.unit.deployments.api.caller import Api, problem
from tests.unit.deployments.api.test_inputs import ID, an_image, sent_raw

MASK = an_image(color="white")


async def uploaded(api: Api, content: bytes) -> str:
    return (await sent_raw(api, content)).json()["id"]


async def test_a_job_begins_with_an_input_and_says_so(api: Api) -> None:
    image, mask = await uploaded(api, an_image()), await uploaded(api, MASK)
    job = await api.submit(init={"input": image, "mask": mask, "strength": 0.5, "mask_blur": 2, "paste_back": True})
    assert job["specs"][0]["init"] == {
        "input": image,
        "strength": 0.5,
        "resize_mode": "crop",
        "mask": mask,
        "mask_blur": 2,
        "area": "whole",
        "paste_back": True,
    }
    assert (await api.ended(job))["status"] == "succeeded"


async def test_a_strength_that_is_left_out_is_the_models(api: Api) -> None:
    job = await api.submit(init={"input": await uploaded(api, an_image())})
    assert job["specs"][0]["init"]["strength"] == 0.75


async def test_fewer_steps_cost_less(api: Api) -> None:
    image = await uploaded(api, an_image())
    half, whole = [
        await api.submit(num_inference_steps=8, init={"input": image, "strength": strength}) for strength in (0.5, 1)
    ]
    assert [(await api.ended(job))["status"] for job in (half, whole)] == ["succeeded"] * 2
    assert [spec.model_calls for spec in api.pipeline.specs] == [4, 8]


async def test_a_job_begins_with_the_result_of_another_by_its_name(api: Api) -> None:
    first = await api.ended(await api.submit())
    job = await api.submit(init={"input": first["images"][0]["name"]})
    assert job["specs"][0]["init"]["input"].startswith("input_")
    assert (await api.ended(job))["status"] == "succeeded"


async def test_a_result_without_white_is_refused_as_a_mask_at_once(api: Api) -> None:
    dark = (await api.ended(await api.submit()))["images"][0]["name"]
    image = await uploaded(api, an_image())
    for _ in range(2):  # the first time leaves an input
        answer = await api.http.post("/jobs", json={"prompt": "a circle", "init": {"input": image, "mask": dark}})
        found = problem(answer, 400)
        assert (found["message"], found["param"]) == (f"init.mask {MASK_RULES['black']}.", "init.mask")


async def test_an_image_that_is_transparent_in_places_is_warned_of(api: Api) -> None:
    clear = await uploaded(api, saved(Image.new("RGBA", (9, 7), (0, 0, 0, 200)), "PNG"))
    opaque, mask = await uploaded(api, an_image()), await uploaded(api, MASK)
    warning = "init.input is transparent in places, which is white here."
    assert (await api.submit(init={"input": clear}))["warnings"] == [warning]
    assert (await api.submit(init={"input": clear, "mask": mask}))["warnings"] == [warning]
    assert (await api.submit(init={"input": opaque}))["warnings"] == []
    assert (await api.generate(init={"input": clear})).json()["warnings"] == [warning]


@pytest.mark.parametrize("name", [ID, "job_" + "0" * 32 + "-0-1-1.png", "photo.png", "https://example.org/a.png"])
async def test_an_image_that_is_not_there_is_refused_in_the_field_that_names_it(api: Api, name: str) -> None:
    known = await uploaded(api, MASK)
    for field, init in (("init.input", {"input": name}), ("init.mask", {"input": known, "mask": name})):
        answer = await api.http.post("/jobs", json={"prompt": "a circle", "init": init})
        error = problem(answer, 404)
        assert (error["param"], error["code"]) == (field, "input_not_found")
    await api.assert_idle()


def a_mask(mode: str, *colors: Any) -> bytes:
    """A PNG with a column of each colour."""
    mask = Image.new(mode, (len(colors), 3))
    for column, color in enumerate(colors):
        mask.paste(color, (column, 0, column + 1, 3))
    return saved(mask, "PNG")


@pytest.mark.parametrize(
    ("mask", "rule"),
    [
        (a_mask("L", 0, 127), MASK_RULES["black"]),
        (a_mask("RGB", (0, 0, 255)), MASK_RULES["black"]),
        (a_mask("RGBA", (0, 0, 0, 255)), MASK_RULES["black"]),
        (a_mask("RGBA", (255, 255, 255, 255), (0, 0, 0, 0)), MASK_RULES["transparent"]),
        (a_mask("LA", (255, 254)), MASK_RULES["transparent"]),
    ],
)
async def test_a_mask_that_changes_nothing_or_is_transparent_is_refused_before_a_job_is_queued(
    api: Api, mask: bytes, rule: str
) -> None:
    known, other = await uploaded(api, MASK), await uploaded(api, mask)
    answer = await api.http.post("/jobs", json={"prompt": "a circle", "init": {"input": known, "mask": other}})
    error = problem(answer, 400)
    assert (error["message"], error["param"]) == (f"init.mask {rule}.", "init.mask")
    await api.assert_idle()
    await api.submit(init={"input": other})  # it may be an image to begin with


@pytest.mark.parametrize("mask", [a_mask("L", 0, 128), a_mask("RGBA", (0, 0, 0, 255), (255, 255, 255, 255))])
async def test_a_mask_that_is_white_somewhere_and_opaque_is_taken(api: Api, mask: bytes) -> None:
    known, other = await uploaded(api, MASK), await uploaded(api, mask)
    await api.submit(init={"input": known, "mask": other})


async def test_an_input_of_somebody_else_is_not_there(api: Api) -> None:
    image = await uploaded(api, an_image())
    answer = await api.caller("10.0.0.9").post("/jobs", json={"prompt": "a circle", "init": {"input": image}})
    assert problem(answer, 404)["code"] == "input_not_found"


async def test_an_input_is_kept_until_the_job_that_needs_it_has_ended(api: Api) -> None:
    image = await uploaded(api, an_image())
    api.pipeline.hold()
    job = await api.submit(init={"input": image})
    refused = await api.http.delete(f"/inputs/{image}")
    assert job["id"] in problem(refused, 409)["message"]
    api.pipeline.let_go()
    assert (await api.ended(job))["status"] == "succeeded"
    assert (await api.http.delete(f"/inputs/{image}")).status_code == 204


async def test_a_retry_with_the_same_key_gives_the_same_job_when_its_input_is_gone(api: Api) -> None:
    image = await uploaded(api, an_image())
    body = {"prompt": "a circle", "init": {"input": image}}
    key = {"Idempotency-Key": "one"}
    job = (await api.http.post("/jobs", json=body, headers=key)).json()
    await api.ended(job)
    assert (await api.http.delete(f"/inputs/{image}")).status_code == 204
    again = await api.http.post("/jobs", json=body, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, job["id"])


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({}, "init.input is required."),
        ({"Input": "a"}, "init.Input is not a known field."),
        ({"strength": 0.01}, "init.strength must be 0.125 or more: of 8 steps 0.01 is less than one."),
        ({"strength": 0}, "init.strength must be more than 0, got 0."),
        ({"strength": 1.5}, "init.strength must be 1 or less, got 1.5."),
        ({"paste_back": True}, "init.paste_back must be left out without a mask, got true."),
        ({"mask_blur": 5}, "init.mask_blur must be left out without a mask, got 5."),
        ({"resize_mode": "tile"}, "init.resize_mode must be 'crop', 'fit' or 'stretch', got 'tile'."),
    ],
)
async def test_what_cannot_be_is_refused_by_its_path(api: Api, init: dict[str, Any], message: str) -> None:
    body = {"prompt": "a", "num_inference_steps": 8, "init": {"input": await uploaded(api, an_image())} | init}
    if not init or "Input" in init:
        body["init"] = init
    answer = await api.http.post("/jobs", json=body)
    assert problem(answer, 400)["message"] == message


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"area": "masked", "paste_back": False}, "init.paste_back must be true or left out when area is masked: "),
        ({"mask_blur": 5}, "init.mask_blur must be left out without paste_back, got 5."),
        ({"mask_blur": 5, "paste_back": False}, "init.mask_blur must be left out without paste_back, got 5."),
    ],
)
async def test_what_a_mask_would_leave_without_effect_is_refused(api: Api, init: dict[str, Any], message: str) -> None:
    init |= {"input": await uploaded(api, an_image()), "mask": await uploaded(api, MASK)}
    answer = await api.http.post("/jobs", json={"prompt": "a", "init": init})
    assert problem(answer, 400)["message"].startswith(message)


@pytest.mark.parametrize(
    "init", [{"area": "masked", "mask_blur": 9}, {"area": "masked"}, {"paste_back": True, "mask_blur": 9}, {}]
)
async def test_what_a_job_says_of_its_image_is_accepted_again(api: Api, init: dict[str, Any]) -> None:
    init |= {"input": await uploaded(api, an_image()), "mask": await uploaded(api, MASK)}
    said = (await api.submit(init=init))["specs"][0]["init"]
    assert said["paste_back"] == ("area" in init or "paste_back" in init)
    assert (await api.submit(init=said))["specs"][0]["init"] == said


async def test_openais_answer_has_no_size_where_the_image_has_that_of_its_input(api: Api) -> None:
    image, mask = await uploaded(api, an_image()), await uploaded(api, MASK)
    for area, has_size in (("whole", True), ("masked", False)):
        answer = await api.generate(init={"input": image, "mask": mask, "area": area})
        assert ("size" in answer.json()) == has_size
