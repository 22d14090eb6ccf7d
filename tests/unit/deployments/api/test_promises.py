"""Keys that make calls safe to repeat, deadlines, and what is kept."""

import time

import pytest
from sqlalchemy import update

from deployments.dispatcher import deployment as deployment_module
from deployments.dispatcher.job_tables import jobs
from models.errors import NonFinite, Refused
from tests.unit.deployments.api.caller import Api, problem


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


async def test_a_failure_is_told_once_and_then_generated_anew_under_the_same_key(api: Api) -> None:
    for error, key, statuses in ((NonFinite(), "a", [500, 200, 200]), (Refused(), "b", [400, 400])):
        api.pipeline.problems = [error]
        body, headers = {"prompt": "a circle", "seed": 7}, {"Idempotency-Key": key}
        answers = [await api.http.post("/images/generations", json=body, headers=headers) for _ in statuses]
        assert [answer.status_code for answer in answers] == statuses
    assert len((await api.http.get("/jobs")).json()["data"]) == 3


async def test_the_longest_deadline_is_said(api: Api) -> None:
    error = problem(await api.http.post("/jobs", json={"prompt": "a circle", "deadline_s": 1e9}), 400)
    assert (error["param"], error["message"]) == ("deadline_s", "deadline_s must be at most 86400, got 1e+09.")


async def test_a_result_that_has_expired_is_a_410(api: Api) -> None:
    job = await api.ended(await api.submit())
    api.dispatcher._queue._jobs.clear()
    api.dispatcher._writer.store.expire(time.time() + 1, 0)
    assert problem(await api.http.get(f"/jobs/{job['id']}"), 410)["code"] == "gone"


async def test_a_job_whose_record_is_damaged_is_a_500_in_words_on_each_of_its_routes(api: Api) -> None:
    job = await api.ended(await api.submit())
    api.dispatcher._queue._jobs.clear()
    with api.dispatcher._writer.store._connected() as connection:
        connection.execute(update(jobs).values(document="{"))
    file = job["images"][0]["url"].removeprefix("/v1")
    for method, path in (("GET", ""), ("GET", "/watch"), ("DELETE", ""), ("POST", "/cancel"), ("GET", file)):
        error = problem(await api.http.request(method, path if path == file else f"/jobs/{job['id']}{path}"), 500)
        assert error["code"] == "unreadable_job"
        assert error["message"] == f"The record of {job['id']} cannot be read. The log of the service has the reason."
    assert (await api.http.get("/jobs")).json() == {"object": "list", "data": [], "has_more": False, "last_id": None}
