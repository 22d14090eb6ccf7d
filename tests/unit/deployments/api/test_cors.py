"""Web pages of other origins that an operator allows to call the API."""

from pathlib import Path

import pytest

from tests.unit.deployments.api.caller import Api, events, problem
from tests.unit.deployments.api.test_auth import Keyed

APP = "https://app.example.org"
FROM_APP = {"Origin": APP, "Sec-Fetch-Site": "cross-site"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture
async def open_api(tmp_path: Path) -> Api:
    return Api(tmp_path, cors_origins=(APP,))


async def test_a_page_of_an_allowed_origin_generates_an_image_and_reads_the_answer(open_api: Api) -> None:
    asked = await open_api.http.options("/images/generations", headers=FROM_APP | PREFLIGHT)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, APP)
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    answer = await open_api.http.post("/images/generations", json={"prompt": "a"}, headers=FROM_APP)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
    assert {"x-job-id", "x-request-id", "Retry-After"} <= set(
        answer.headers["access-control-expose-headers"].split(", ")
    )
    assert "access-control-allow-credentials" not in answer.headers
    watched = await open_api.http.get(f"/jobs/{answer.headers['x-job-id']}/watch", headers=FROM_APP)
    assert watched.headers["access-control-allow-origin"] == APP
    assert events(watched)


async def test_a_public_page_of_an_allowed_origin_may_call_a_server_in_a_private_network(open_api: Api) -> None:
    headers = FROM_APP | PREFLIGHT | {"Access-Control-Request-Private-Network": "true"}
    asked = await open_api.http.options("/images/generations", headers=headers)
    assert (asked.status_code, asked.headers["access-control-allow-private-network"]) == (200, "true")
    other = await open_api.http.options("/images/generations", headers=headers | {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


async def test_a_page_of_an_allowed_origin_can_read_errors(open_api: Api) -> None:
    answer = await open_api.http.post("/images/generations", json={"prompt": ""}, headers=FROM_APP)
    assert problem(answer, 400)["param"] == "prompt"
    assert answer.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example.org", "null", f"{APP}.evil.example"])
async def test_a_page_of_another_origin_is_refused_as_before(open_api: Api, origin: str) -> None:
    headers = FROM_APP | {"Origin": origin}
    answer = await open_api.http.post("/images/generations", json={"prompt": "a"}, headers=headers)
    assert "cors_origins" in problem(answer, 403)["message"]
    assert "access-control-allow-origin" not in answer.headers
    asked = await open_api.http.options("/jobs", headers=headers | PREFLIGHT)
    assert "access-control-allow-origin" not in asked.headers
    await open_api.assert_idle()


async def test_no_page_of_another_origin_reads_anything_unless_the_operator_allows_it(api: Api) -> None:
    assert (await api.http.options("/jobs", headers=FROM_APP | PREFLIGHT)).status_code == 405
    problem(await api.http.post("/jobs", json={"prompt": "a"}, headers=FROM_APP), 403)
    assert "access-control-allow-origin" not in (await api.http.get("/queue", headers=FROM_APP)).headers


@pytest.mark.parametrize("allowed", ["*", APP])
async def test_with_keys_on_a_browser_asks_without_a_key_and_calls_with_one(tmp_path: Path, allowed: str) -> None:
    keyed = Keyed(tmp_path, cors_origins=(allowed,))
    assert (await keyed.call(None, "OPTIONS", "/jobs", headers=FROM_APP | PREFLIGHT)).status_code == 200
    answer = await keyed.call(keyed.ada, "POST", "/jobs", json={"prompt": "a"}, headers=FROM_APP)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (202, allowed)
    refused = await keyed.call(None, "POST", "/jobs", json={"prompt": "a"}, headers=FROM_APP)
    problem(refused, 401)
    assert refused.headers["access-control-allow-origin"] == allowed
