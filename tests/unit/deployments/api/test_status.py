"""What the service says of itself."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.dispatcher import client as client_module
from deployments.error_responses import STATUSES
from deployments.errors import BY_CODE, QueueFull, ReplicaLost, StoreUnavailable, Superseded
from deployments.serve.replicas import ApplicationState, DeploymentState
from models.errors import DarkroomError, Unavailable
from models.model_card import EmbeddingCard
from tests.fakes import CARD, STEPS
from tests.unit.deployments.api.caller import SLEEPS, STAGES_RUN, STARTS, Api, SharedApp, problem


async def test_models_are_listed_with_what_they_allow(api: Api) -> None:
    listed = (await api.http.get("/models")).json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["shapes"])
    assert (await api.http.get("/models/shapes")).json() == listed["data"][0]
    capabilities = listed["data"][0]["capabilities"]
    assert capabilities["bounds"] == {"width": [64, 256], "height": [128, 128], "clip_skip": [0, 12]}
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
        (STAGES_RUN, []),
        (STAGES_RUN | {"Denoiser": SLEEPS}, []),
        (STAGES_RUN | {"Denoiser": STARTS}, ["shapes/Denoiser"]),
        ({"Vae": STARTS}, ["shapes/TextEncoder", "shapes/Denoiser", "shapes/Vae"]),
    ],
)
async def test_ready_names_what_is_missing(
    api: Api, deployments: dict[str, DeploymentState], missing: list[str]
) -> None:
    api.applications["shapes"] = ApplicationState("DEPLOYING", deployments)
    answer = await api.http.get("/ready")
    body = answer.json()
    assert (answer.status_code, body["ready"], body["missing"]) == (503 if missing else 200, not missing, missing)
    assert body["applications"]["shapes"]["status"] == "DEPLOYING"


async def test_ready_is_false_before_the_application_is_known(api: Api) -> None:
    api.applications = {}
    answer = await api.http.get("/ready")
    assert (answer.status_code, answer.json()["missing"]) == (
        503,
        ["generation/Dispatcher", "shapes/TextEncoder", "shapes/Denoiser", "shapes/Vae"],
    )


async def test_the_page_of_the_description_loads_all_its_files_from_the_service(api: Api) -> None:
    page = await api.http.get("/docs")
    files = re.findall(r'(?:href|src)="(.+?)"', page.text)
    assert len(files) == 3
    for path in (*files, "openapi.json"):
        assert path in page.text
        assert (await api.http.get(f"/{path}")).status_code == 200  # from the API's own prefix on
    problem(await api.http.get("/docs/missing.js"), 404)


async def test_the_description_carries_the_bounds_of_each_field(api: Api) -> None:
    assert (await api.http.get("/docs")).status_code == 200
    description = (await api.http.get("/openapi.json")).json()
    assert {"/jobs", "/jobs/{job_id}/watch", "/images/generations", "/files/{name}", "/ready"} <= set(
        description["paths"]
    )
    fields = description["components"]["schemas"]["GenerationRequest"]["properties"]
    steps, _ = fields["num_inference_steps"]["anyOf"]
    assert (steps["minimum"], steps["maximum"]) == (1, 150)
    images = description["components"]["schemas"]["ImagesBody"]["properties"]
    assert images["guidance_scale"]["anyOf"][0]["maximum"] == 30


async def test_the_description_states_no_default_that_is_the_models(api: Api) -> None:
    schemas = (await api.http.get("/openapi.json")).json()["components"]["schemas"]
    for body in ("GenerationRequest", "ImagesBody", "HFParameters"):
        fields = schemas[body]["properties"]
        for name in {*CARD.defaults, "num_inference_steps"} & set(fields):
            assert ("default" in fields[name], fields[name]["default_of"]) == (False, "model"), (body, name)


@pytest.mark.parametrize("path", ["/jobs", "/images/generations"])
async def test_null_means_left_out(api: Api, path: str) -> None:
    given = {"prompt": "a circle", "seed": 7}
    nulls = dict.fromkeys(("width", "height", "num_inference_steps", "guidance_scale", "sampler", "negative_prompt"))
    if path != "/jobs":
        del nulls["width"], nulls["height"]
    for body in (given, given | nulls):
        answer = await api.http.post(path, json=body, headers={"Prefer": "wait=9", "Idempotency-Key": path[1:4]})
        assert answer.status_code == 200, answer.text
    [job] = (await api.http.get("/jobs")).json()["data"]  # to the same key they are one request
    assert {name: job["specs"][0][name] for name in CARD.defaults} == dict(CARD.defaults)


async def test_tokens_are_counted_and_what_is_cut_is_quoted(api: Api) -> None:
    body = {"prompt": " ".join(["red"] * 31), "negative_prompt": "a star"}
    assert (await api.http.post("/tokenize", json=body)).json() == {
        "prompt": {"count": 31, "limit": 30, "cut": "red", "chunks": 1},
        "negative_prompt": {"count": 2, "limit": 30, "cut": "", "chunks": 1},
    }


async def test_the_words_of_a_style_count(api: Api) -> None:
    answer = await api.http.post("/tokenize", json={"prompt": "a circle", "style": "flat"})
    assert answer.json()["prompt"]["count"] == 4


async def test_loras_that_a_weighted_prompt_names_do_not_count(api: Api) -> None:
    body = {"prompt": "a circle <lora:chalk:0.8>"}
    for syntax, count in (("plain", 3), ("weighted", 2)):
        answer = await api.http.post("/tokenize", json={**body, "prompt_syntax": syntax})
        assert answer.json()["prompt"]["count"] == count


async def test_an_embedding_that_cannot_be_counted_is_named_with_the_text_that_has_it(
    tmp_path: Path, shared_app: SharedApp
) -> None:
    api = Api(tmp_path, shared=shared_app)
    card = EmbeddingCard(name="ink", sha256="a" * 64, vectors=2)
    defaults = CARD.defaults | {"negative_prompt": "<ink>"}
    api.pipeline.served, api.pipeline.changed = replace(CARD, embeddings=(card,), defaults=defaults), {"ink"}

    async def refused(**body: str) -> tuple[str | None, str]:
        error = problem(await api.http.post("/tokenize", json={"prompt": "a", "negative_prompt": "b", **body}), 409)
        return error["param"], error["message"]

    for field in ("prompt", "negative_prompt"):
        assert await refused(**{field: "<ink>"}) == (field, f"{field}: ink has changed.")
    error = problem(await api.http.post("/tokenize", json={"prompt": "a"}), 409)
    assert error["param"] is None
    assert error["message"].startswith("The default negative prompt of shapes: ink has changed.")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "prompt"),
        ({"prompt": "(a:99)", "prompt_syntax": "weighted"}, 400, "prompt"),
        ({"prompt": "a", "style": "anime"}, 400, "style"),
        ({"prompt": "a", "model": "magic"}, 404, "model"),
        ({"prompt": "a", "seed": 1}, 400, "seed"),
        ({"prompt": "\0"}, 400, "prompt"),
    ],
)
async def test_words_that_cannot_be_read_are_refused(api: Api, body: dict[str, Any], status: int, param: str) -> None:
    assert problem(await api.http.post("/tokenize", json=body), status)["param"] == param


ROOT = Path(__file__).parents[4]
ALL_ERRORS = [error for error in BY_CODE.values() if error is not DarkroomError]


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: error.code)
@pytest.mark.parametrize(("path", "ours"), [("/jobs/job_0", True), ("/hf/models/shapes/health", False)])
async def test_every_error_has_its_status_its_code_and_one_shape(
    api: Api, error: type[DarkroomError], path: str, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = error("postgresql://ada@db.internal:5432/x refuses.")

    async def fail(*_: object) -> None:
        raise raised

    for method in ("job", "models"):
        monkeypatch.setattr(api.dispatcher, method, fail)
    if isinstance(raised, ReplicaLost | Superseded):  # those are tried again, until nobody has the patience
        monkeypatch.setattr(client_module, "PATIENCE_S", 0)
        error = Unavailable
    answer, status = await api.http.get(path), STATUSES.get(error.code, 500)
    if ours:
        assert problem(answer, status)["code"] == error.code
    else:
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
    if isinstance(raised, StoreUnavailable):
        assert "internal" not in answer.text
    assert ("retry-after" in answer.headers) == issubclass(error, QueueFull | Unavailable)


async def test_one_request_may_be_so_much_work(tmp_path: Path) -> None:
    api = Api(tmp_path, max_job_cost=0.6)
    assert (await api.http.post("/jobs", json={"prompt": "a", "num_images": 2})).status_code == 202
    error = problem(await api.http.post("/jobs", json={"prompt": "a", "num_images": 3}), 400)
    assert error["param"] == "num_inference_steps"
    assert error["message"] == (
        "num_inference_steps must be less, or the images fewer or smaller: they take 0.75 megapixel steps "
        "(pixels × steps × rows × images), and 0.6 are allowed in one request."
    )


async def test_the_committed_description_is_the_services_own_and_has_an_example_of_each_answer(api: Api) -> None:
    committed = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
    assert (await api.http.get("/openapi.json")).json() == committed, (
        "python -m ops.openapi > docs/openapi.json writes it anew"
    )
    for path, operations in committed["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                for kind, content in answer.get("content", {}).items():
                    if status.startswith("2") and kind == "application/json" and "hf" not in path:
                        assert "example" in content, (method, path, status)
            assert "422" not in operation["responses"] or path in (
                "/jobs",
                "/images/generations",
                "/images/edits",
                "/images/variations",
                "/hf/models/{model_id}",
            )
