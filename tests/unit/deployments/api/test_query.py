"""Query parameters that a path does not have."""

from typing import Any

import pytest

from deployments.api.query import ANY_PARAMETERS
from tests.unit.deployments.api.caller import Api, problem


@pytest.mark.parametrize(
    ("path", "takes"),
    [
        ("/jobs?staus=succeeded", "this path takes status, limit, after. Did you mean status?"),
        ("/jobs?limit=5&staus=succeeded&limit=6", "this path takes status, limit, after. Did you mean status?"),
        ("/inputs?staus=x", "this path takes limit, after."),
        ("/jobs/job_0?staus=x", "this path takes link."),
    ],
)
async def test_an_unknown_query_parameter_is_refused_with_those_that_the_path_takes(
    api: Api, path: str, takes: str
) -> None:
    found = problem(await api.http.get(path), 400)
    assert found["message"] == f"staus is not a known query parameter; {takes}"
    assert (found["param"], found["code"]) == ("staus", "invalid_value")


@pytest.mark.parametrize("path", ["/queue", "/models", "/models/shapes", "/inputs/input_0"])
async def test_a_path_without_query_parameters_says_so(api: Api, path: str) -> None:
    found = problem(await api.http.get(path, params={"limit": 5}), 400)
    assert found["message"] == "limit is not a known query parameter: this path takes none."


async def test_hugging_faces_route_answers_in_its_own_shape(api: Api) -> None:
    answer = await api.http.get("/hf/models/shapes/health", params={"limit": 5})
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "limit is not a known query parameter: this path takes none."},
    )


async def test_head_is_answered_as_get(api: Api) -> None:
    assert (await api.http.head("/jobs", params={"staus": "succeeded"})).status_code == 400


async def test_a_links_secret_can_be_sent_to_each_path(api: Api) -> None:
    for path in ("/jobs", "/queue", "/models"):
        assert (await api.http.get(path, params={"link": "secret"})).status_code == 200


async def test_what_others_add_to_an_address_of_an_image_or_a_stream_or_a_probe_is_ignored(api: Api) -> None:
    job = await api.ended(await api.submit())
    values: dict[str, Any] = {"name": job["images"][0]["url"].rpartition("/")[2], "job_id": job["id"]}
    assert (await api.http.get("/openapi.json")).json()["paths"].keys() >= ANY_PARAMETERS
    for path in ANY_PARAMETERS - {"/inputs/{input_id}/content", "/ready"}:
        assert (await api.http.get(path.format(**values), params={"fbclid": "x"})).status_code == 200, path


async def test_what_a_post_has_in_its_query_is_ignored(api: Api) -> None:
    answer = await api.http.post("/jobs", params={"api-version": "2026"}, json={"prompt": "a circle"})
    assert answer.status_code == 202
