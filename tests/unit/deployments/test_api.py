"""The HTTP API over the real Dispatcher and a pipeline that draws plain squares."""

import asyncio
import base64
import io
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from deployments.api.deployment import create_api
from deployments.api.limits import MAX_BODY
from deployments.dispatcher import client as client_module
from deployments.dispatcher import deployment as deployment_module
from deployments.dispatcher.client import DispatcherClient, LocalCalls
from deployments.image_store import ImageStore
from deployments.replicas import ApplicationState, DeploymentState
from models.errors import NonFinite
from tests.fakes import STEPS, FakePipeline, a_dispatcher, settled, until

RUNS = DeploymentState(status="HEALTHY", running=1, wanted=1)
STARTS = DeploymentState(status="UPDATING", running=0, wanted=1)
SLEEPS = DeploymentState(status="HEALTHY", running=0, wanted=0)
ALL_RUN = dict.fromkeys(("Dispatcher", "TextEncoder", "Denoiser", "VaeDecoder", "ApiIngress"), RUNS)


class Api:
    """The API, and what stands behind it."""

    def __init__(self, root: Path, max_waiting: int = 8) -> None:
        images = ImageStore(root)
        self.pipeline = FakePipeline(images)
        self.dispatcher = a_dispatcher(self.pipeline, max_waiting=max_waiting)
        self.applications = {"generation": ApplicationState("RUNNING", dict(ALL_RUN))}
        self.app = create_api(DispatcherClient(LocalCalls(self.dispatcher)), images, lambda: self.applications)
        self.http = self.caller("127.0.0.1")

    def caller(self, address: str) -> httpx.AsyncClient:
        """Somebody who calls from an address."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(address, 1))
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """Queue a job; return its body."""
        answer = await self.http.post("/jobs", json={"prompt": "a circle", **fields})
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def generate(self, **fields: Any) -> httpx.Response:
        """Ask for pictures as a client of OpenAI does."""
        return await self.http.post("/images/generations", json={"prompt": "a circle", **fields})

    async def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """How a job ended."""
        return events(await self.http.get(f"/jobs/{job['id']}/watch"))[-1][1]

    async def assert_idle(self) -> None:
        """Nothing was queued, by anyone."""
        queue = (await self.http.get("/queue")).json()
        assert (queue["waiting"], queue["running"], queue["eta_s"]) == (0, 0, 0)
        assert (await self.http.get("/jobs")).json() == {"object": "list", "data": []}
        assert self.pipeline.started == []


@pytest.fixture
async def api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def events(answer: httpx.Response) -> list[tuple[str, Any]]:
    """Name and data of each server-sent event."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    found = []
    for block in answer.text.split("\n\n")[:-1]:
        lines = [line.partition(": ")[::2] for line in block.split("\n") if not line.startswith(":")]
        names = [value for field, value in lines if field == "event"]
        data = [value for field, value in lines if field == "data"]
        if data:
            found.append((names[0] if names else "message", json.loads("\n".join(data))))
    return found


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer in OpenAI's shape, which says nothing of our insides."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert error["message"]
    assert not re.search(r"Traceback|File \"|\.py|site-packages", answer.text)
    return error


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.size


# -- OpenAI's dialect


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
    files = [await api.http.get(image["url"].removeprefix("/v1")) for image in body["data"]]
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
    api.pipeline.cut = "and a star"
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
    [(0, (2, 4, 6), 0), (1, (2, 4, 6), 1), (2, (2, 4, 6), 2), (3, (2, 4, 6), 3), (3, (2,), 1), (3, (), 0)],
)
async def test_a_stream_has_at_most_the_wanted_previews_and_then_the_picture(
    api: Api, partial_images: int, previews: tuple[int, ...], shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WATCH_INTERVAL_S", 0)
    found = await streamed(api, partial_images, previews)
    assert [name for name, _ in found] == ["image_generation.partial_image"] * shown + ["image_generation.completed"]
    assert all(data["type"] == name for name, data in found)
    assert [data["partial_image_index"] for _, data in found[:-1]] == list(range(shown))
    assert [base64.b64decode(data["b64_json"]) for _, data in found[:-1]] == [
        b"preview %d" % k for k in previews[:shown]
    ]
    assert size_of(base64.b64decode(found[-1][1]["b64_json"])) == (4, 4)
    assert (found[-1][1]["seed"], found[-1][1]["size"]) == (7, "128x128")


async def test_proxies_are_told_not_to_hold_a_stream_back(api: Api) -> None:
    job = await api.submit()
    for answer in (await api.generate(stream=True), await api.http.get(f"/jobs/{job['id']}/watch")):
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (NonFinite("The picture turned into NaN."), "non_finite", "The picture turned into NaN."),
        (ValueError("secret"), "internal_error", "Something went wrong on our side."),
    ],
)
async def test_a_job_that_fails_is_an_error_with_and_without_a_stream(
    api: Api, error: Exception, code: str, message: str
) -> None:
    api.pipeline.problems = [error, error]
    plain = problem(await api.generate(), 500)
    assert (plain["code"], plain["message"]) == (code, message)
    [(name, data)] = events(await api.generate(stream=True))
    assert (name, data) == ("message", {"error": plain})


async def test_a_request_whose_job_is_cancelled_is_answered(api: Api) -> None:
    api.pipeline.hold()
    request = asyncio.create_task(api.generate())
    await until(lambda: api.pipeline.running)
    [job] = (await api.http.get("/jobs")).json()["data"]
    assert (await api.http.post(f"/jobs/{job['id']}/cancel")).status_code == 200
    assert problem(await request, 409)["code"] == "job_ended"


async def test_one_stream_shows_one_picture(api: Api) -> None:
    assert problem(await api.generate(stream=True, n=2), 400)["param"] == "n"
    await api.assert_idle()


# -- jobs


async def test_a_job_is_accepted_with_its_address_and_can_be_read_and_listed(api: Api) -> None:
    answer = await api.http.post("/jobs", json={"prompt": "a circle", "seed": 7, "num_images": 2})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert "owner" not in job
    assert [spec["seed"] for spec in job["specs"]] == [7, 8]
    end = await api.ended(job)
    assert (await api.http.get(f"/jobs/{job['id']}")).json() == end
    assert (await api.http.get("/jobs")).json() == {"object": "list", "data": [end]}
    assert end["status"] == "succeeded"
    assert [(await api.http.get(i["url"].removeprefix("/v1"))).status_code for i in end["images"]] == [200, 200]


async def test_a_watch_is_a_stream_of_states_of_the_job_until_its_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WATCH_INTERVAL_S", 0)
    api.pipeline.hold()
    job = await api.submit()
    watch = asyncio.create_task(api.http.get(f"/jobs/{job['id']}/watch"))
    for _ in range(STEPS):
        await settled()
        api.pipeline.allow(1)
    found = events(await watch)
    assert {name for name, _ in found} == {"job"}
    assert all(state["id"] == job["id"] for _, state in found)
    versions = [state["version"] for _, state in found]
    assert versions == sorted(set(versions))
    assert [state["status"] for _, state in found[:-1]] == ["running"] * (len(found) - 1)
    assert found[-1][1]["status"] == "succeeded"
    assert len(found) > 2


async def test_a_watch_of_an_ended_job_is_one_event(api: Api) -> None:
    job = await api.submit()
    end = await api.ended(job)
    assert events(await api.http.get(f"/jobs/{job['id']}/watch")) == [("job", end)]


@pytest.mark.parametrize(("method", "path"), [("POST", "/jobs/{}/cancel"), ("DELETE", "/jobs/{}")])
async def test_a_job_can_be_cancelled_once(api: Api, method: str, path: str) -> None:
    api.pipeline.hold()
    job = await api.submit()
    await until(lambda: api.pipeline.running)
    first = await api.http.request(method, path.format(job["id"]))
    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    again = problem(await api.http.request(method, path.format(job["id"])), 409)
    assert again["code"] == "job_ended"
    await until(lambda: api.pipeline.left)
    queue = (await api.http.get("/queue")).json()
    assert (queue["waiting"], queue["running"]) == (0, 0)


JOB_ROUTES = [("GET", "/jobs/{}"), ("GET", "/jobs/{}/watch"), ("POST", "/jobs/{}/cancel"), ("DELETE", "/jobs/{}")]


@pytest.mark.parametrize(("method", "path"), JOB_ROUTES)
async def test_an_unknown_job_is_a_404(api: Api, method: str, path: str) -> None:
    for name in ("job_0", "x" * 3000, "%00", "%FF", "📷"):
        assert problem(await api.http.request(method, path.format(name)), 404)["code"] == "not_found"


@pytest.mark.parametrize(("method", "path"), JOB_ROUTES)
async def test_somebody_elses_job_is_a_404(api: Api, method: str, path: str) -> None:
    api.pipeline.hold()
    job = await api.submit()
    stranger = api.caller("10.0.0.2")
    assert problem(await stranger.request(method, path.format(job["id"])), 404)["code"] == "not_found"
    assert (await stranger.get("/jobs")).json()["data"] == []
    assert (await api.http.get(f"/jobs/{job['id']}")).json()["status"] == "running"


async def test_a_full_line_is_a_429_that_says_when_to_come_back(tmp_path: Path) -> None:
    api = Api(tmp_path, max_waiting=2)
    api.pipeline.hold()
    await api.submit(num_images=2)
    await api.submit(num_images=2)
    for answer in (await api.http.post("/jobs", json={"prompt": "a"}), await api.generate()):
        assert problem(answer, 429)["code"] == "queue_full"
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert len((await api.http.get("/jobs")).json()["data"]) == 2
    assert (await api.http.get("/queue")).json()["waiting"] == 2


# -- keys, deadlines, and what is kept


@pytest.mark.parametrize("path", ["/jobs", "/images/generations"])
async def test_the_same_key_gives_the_same_answer_and_draws_once(api: Api, path: str) -> None:
    headers = {"Idempotency-Key": "order-17"}
    answers = [await api.http.post(path, json={"prompt": "a circle"}, headers=headers) for _ in range(3)]
    assert len(api.pipeline.started) == 1
    if path == "/jobs":
        assert len({answer.json()["id"] for answer in answers}) == 1
    else:
        assert len({answer.json()["data"][0]["b64_json"] for answer in answers}) == 1


async def test_a_key_that_came_with_another_body_is_a_422(api: Api) -> None:
    headers = {"Idempotency-Key": "order-17"}
    await api.http.post("/jobs", json={"prompt": "a circle"}, headers=headers)
    error = problem(await api.http.post("/jobs", json={"prompt": "a star"}, headers=headers), 422)
    assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "clé"])
async def test_a_malformed_key_is_a_400_that_names_it_and_queues_nothing(api: Api, key: str) -> None:
    answer = await api.http.post("/jobs", json={"prompt": "a circle"}, headers={"Idempotency-Key": key.encode()})
    assert problem(answer, 400)["param"] == "idempotency-key"
    await api.assert_idle()


async def test_a_job_that_takes_too_long_expires_and_whoever_waits_gets_a_504(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "FORECAST_INTERVAL_S", 0)
    api.pipeline.hold()
    job = await api.submit(deadline_s=0.01)
    end = await api.ended(job)
    assert (end["status"], end["error"]["code"]) == ("expired", "deadline_exceeded")
    error = problem(await api.generate(deadline_s=0.01), 504)
    assert error["code"] == "deadline_exceeded"


async def test_the_longest_deadline_is_said(api: Api) -> None:
    error = problem(await api.http.post("/jobs", json={"prompt": "a circle", "deadline_s": 1e9}), 400)
    assert (error["param"], error["message"]) == ("deadline_s", "deadline_s must be at most 86400, got 1e+09.")


async def test_a_result_that_has_expired_is_a_410(api: Api) -> None:
    job = await api.ended(await api.submit())
    api.dispatcher._queue._jobs.clear()
    api.dispatcher._ledger.store.expire(time.time() + 1, 0)
    assert problem(await api.http.get(f"/jobs/{job['id']}"), 410)["code"] == "gone"


# -- what is refused

BAD_FIELDS = [
    ("prompt", "", "at least 1 character"),
    ("prompt", "  \n", "blank"),
    ("prompt", "x" * 100_000, "at most 4000"),
    ("prompt", "a\0b", "NUL"),
    ("prompt", "a\ud800b", "valid string"),
    ("prompt", None, "valid string"),
    ("negative_prompt", "a\0b", "NUL"),
    ("num_inference_steps", 0, "greater than or equal to 1"),
    ("num_inference_steps", 151, "less than or equal to 150"),
    ("num_inference_steps", "ten", "valid integer"),
    ("guidance_scale", -1, "greater than or equal to 0"),
    ("guidance_scale", float("nan"), "finite number"),
    ("guidance_scale", float("inf"), "finite number|less than or equal to 30"),
    ("seed", -1, "greater than or equal to 0"),
    ("seed", 2**64, "less than or equal to 4294967295"),
    ("seed", 10**400, "less than or equal to 4294967295"),
    ("sampler", "lms", "'ddim'"),
    ("sampler", "dpmpp_2m", "ddim, euler for shapes"),
    ("style", "baroque", "'flat'"),
    ("style", "anime", "flat, cartoon for shapes"),
    ("output_format", "gif", "'png'"),
    ("stpes", 20, "no such field"),
]
BAD_JOBS = [
    ("width", 100, "multiple of 64"),
    ("width", 0, "greater than or equal to 64"),
    ("width", 10**6, "less than or equal to 2048"),
    ("height", 192, "must be 128 for shapes"),
    ("num_images", 0, "greater than or equal to 1"),
    ("num_images", 11, "less than or equal to 10"),
]
BAD_IMAGES = [
    ("size", "100", "pattern"),
    ("size", "-64x64", "pattern"),
    ("n", 0, "greater than or equal to 1"),
    ("n", 11, "less than or equal to 10"),
    ("response_format", "file", "'b64_json' or 'url'"),
    ("partial_images", 4, "less than or equal to 3"),
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


@pytest.mark.parametrize(("size", "param"), [("100x128", "width"), ("128x99999", "height"), ("0x0", "width")])
async def test_a_size_that_cannot_be_drawn_names_the_side(api: Api, size: str, param: str) -> None:
    assert problem(await api.generate(size=size), 400)["param"] == param
    await api.assert_idle()


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
        b'{"prompt": "a\xff"}',
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
    problem(await api.http.get(path), 404)


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/queue"), ("PUT", "/jobs"), ("GET", "/images/generations")])
async def test_a_wrong_method_is_a_405_in_the_same_shape_that_names_the_right_one(
    api: Api, method: str, path: str
) -> None:
    answer = await api.http.request(method, path)
    problem(answer, 405)
    assert answer.headers["allow"]


async def test_an_unexpected_error_is_a_500_without_details(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.dispatcher, "_card", None)
    error = problem(await api.http.get("/models"), 500)
    assert (error["message"], error["code"]) == ("Something went wrong on our side.", "internal_error")


# -- files


async def finished_file(api: Api, **fields: Any) -> str:
    end = await api.ended(await api.submit(**fields))
    return end["images"][0]["url"].removeprefix("/v1")


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_a_file_has_its_type_and_can_be_kept_for_ever(api: Api, output_format: str) -> None:
    path = await finished_file(api, output_format=output_format)
    answer = await api.http.get(path)
    assert answer.headers["content-type"] == f"image/{output_format}"
    assert "immutable" in answer.headers["cache-control"]
    assert size_of(answer.content) == (4, 4)


async def test_a_file_that_the_caller_has_is_not_sent_again(api: Api) -> None:
    path = await finished_file(api)
    tag = (await api.http.get(path)).headers["etag"]
    again = await api.http.get(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await api.http.get(path, headers={"If-None-Match": '"another"'})).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "job_00000000000000000000000000000000-0-1.png",
        "x",
        "secret.png",
        "%2e%2e%2fsecret.png",
        "..%2Fsecret.png",
        "....//secret.png",
        "%00",
        "job_00000000000000000000000000000000-0-1.png%0A",
        ".job_00000000000000000000000000000000-0-1.png.partial",
        "x" * 3000,
    ],
)
async def test_a_name_that_is_no_picture_is_a_404(api: Api, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path.parent / "secret.png").write_bytes(b"secret")
    answer = await api.http.get(f"/files/{name}")
    assert len(problem(answer, 404)["message"]) < 300


# -- the service


async def test_models_are_listed_with_what_they_allow(api: Api) -> None:
    listed = (await api.http.get("/models")).json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["shapes"])
    assert (await api.http.get("/models/shapes")).json() == listed["data"][0]
    capabilities = listed["data"][0]["capabilities"]
    assert capabilities["bounds"] == {"width": [64, 256], "height": [128, 128]}
    assert capabilities["defaults"]["num_inference_steps"] == STEPS
    error = problem(await api.http.get("/models/owner/other"), 404)
    assert error["param"] == "model"


async def test_the_queue_counts_pictures(api: Api) -> None:
    api.pipeline.hold()
    await api.submit(num_images=5)
    queue = (await api.http.get("/queue")).json()
    assert (queue["waiting"], queue["running"], queue["replicas"]) == (3, 2, {"denoiser": 1})
    assert queue["eta_s"] > 0


async def test_health_says_that_the_api_answers(api: Api) -> None:
    api.applications = {}
    assert (await api.http.get("/health")).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("deployments", "missing"),
    [
        (ALL_RUN, []),
        (ALL_RUN | {"Denoiser": SLEEPS}, []),
        (ALL_RUN | {"Denoiser": STARTS}, ["Denoiser"]),
        ({"Dispatcher": RUNS, "VaeDecoder": STARTS}, ["TextEncoder", "Denoiser", "VaeDecoder"]),
    ],
)
async def test_ready_names_what_is_missing(
    api: Api, deployments: dict[str, DeploymentState], missing: list[str]
) -> None:
    api.applications = {"generation": ApplicationState("DEPLOYING", deployments)}
    answer = await api.http.get("/ready")
    body = answer.json()
    assert (answer.status_code, body["ready"], body["missing"]) == (503 if missing else 200, not missing, missing)
    assert body["applications"]["generation"]["status"] == "DEPLOYING"


async def test_ready_is_false_before_the_application_is_known(api: Api) -> None:
    api.applications = {}
    answer = await api.http.get("/ready")
    assert (answer.status_code, answer.json()["missing"]) == (
        503,
        ["Dispatcher", "TextEncoder", "Denoiser", "VaeDecoder"],
    )


async def test_the_description_carries_the_bounds_of_each_field(api: Api) -> None:
    assert (await api.http.get("/docs")).status_code == 200
    description = (await api.http.get("/openapi.json")).json()
    assert {"/jobs", "/jobs/{job_id}/watch", "/images/generations", "/files/{name}", "/ready"} <= set(
        description["paths"]
    )
    fields = description["components"]["schemas"]["GenerationRequest"]["properties"]
    assert (fields["num_inference_steps"]["minimum"], fields["num_inference_steps"]["maximum"]) == (1, 150)
    images = description["components"]["schemas"]["ImagesBody"]["properties"]
    assert images["guidance_scale"]["maximum"] == 30
