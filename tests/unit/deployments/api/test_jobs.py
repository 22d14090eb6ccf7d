"""Jobs over HTTP."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.api.headers import wait_s
from deployments.dispatcher import client as client_module
from models.errors import InvalidRequest
from models.model_card import AdapterCard
from models.spec import Lora
from tests.fakes import CARD, STEPS, settled, until
from tests.unit.deployments.api.caller import Api, SharedApp, events, problem


async def test_a_job_is_accepted_with_its_address_and_can_be_read_and_listed(api: Api) -> None:
    answer = await api.http.post("/jobs", json={"prompt": "a circle", "seed": 7, "num_images": 2})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert not {"owner", "link"} & set(job)
    assert [spec["seed"] for spec in job["specs"]] == [7, 8]
    end = await api.ended(job)
    assert (await api.http.get(f"/jobs/{job['id']}")).json() == end
    assert (await api.http.get("/jobs")).json() == {
        "object": "list",
        "data": [end],
        "has_more": False,
        "last_id": job["id"],
    }
    assert end["status"] == "succeeded"
    assert [(await api.http.get(i["url"].removeprefix("/v1"))).status_code for i in end["images"]] == [200, 200]


async def test_what_of_a_lora_only_the_service_needs_is_in_the_store_alone(
    tmp_path: Path, shared_app: SharedApp
) -> None:
    api = Api(tmp_path, shared=shared_app)
    chalk = AdapterCard(name="chalk", sha256="c" * 64, tensors_sha256="e" * 64, rank=8, components=("unet",))
    api.pipeline.served = replace(CARD, adapters=(chalk,))
    job = await api.submit(loras=[{"name": "chalk", "weight": 0.5}])
    end = await api.ended(job)
    expected = [{"name": "chalk", "weight": 0.5, "sha256": "c" * 64}]
    for shown in (job, end, (await api.http.get("/jobs")).json()["data"][0]):
        assert [spec["loras"] for spec in shown["specs"]] == [expected]
    assert [image["spec"]["loras"] for image in end["images"]] == [expected]
    stored = api.dispatcher._writer.store.job(job["id"])
    assert stored is not None
    assert stored.specs[0].loras == (
        Lora(name="chalk", weight=0.5, sha256="c" * 64, tensors_sha256="e" * 64, changes_text=False),
    )
    assert set((await api.http.get("/openapi.json")).json()["components"]["schemas"]["Lora"]["properties"]) == {
        *("name", "weight", "sha256")
    }


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


async def test_a_browser_that_has_seen_the_end_of_a_job_is_told_to_reconnect_no_more(api: Api) -> None:
    """An `EventSource` reconnects after the end of a stream, with the id of the last event, until it gets a 204."""
    api.pipeline.hold()
    path = f"/jobs/{(await api.submit())['id']}/watch"
    watching = asyncio.create_task(api.http.get(path))
    await until(lambda: api.pipeline.running)
    api.pipeline.let_go()
    ids = [line.removeprefix("id: ") for line in (await watching).text.splitlines() if line.startswith("id: ")]
    assert len(ids) == len(set(ids)) > 1
    again = await api.http.get(path, headers={"Last-Event-ID": ids[-1]})
    assert (again.status_code, again.content) == (204, b"")
    for last_seen in (ids[0], "é", ""):  # cut before the end: the last event comes again
        [(_, state)] = events(await api.http.get(path, headers={"Last-Event-ID": last_seen.encode()}))
        assert state["status"] == "succeeded"


async def test_a_browser_that_reconnects_while_a_job_goes_on_watches_it(api: Api) -> None:
    api.pipeline.hold()
    job = await api.submit()
    version = (await api.http.get(f"/jobs/{job['id']}")).json()["version"]
    headers = {"Last-Event-ID": str(version)}
    watching = asyncio.create_task(api.http.get(f"/jobs/{job['id']}/watch", headers=headers))
    await settled()
    api.pipeline.let_go()
    assert events(await watching)[-1][1]["status"] == "succeeded"


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


# -- waiting, and looking through many


async def test_who_prefers_to_wait_gets_the_ended_job(api: Api) -> None:
    answer = await api.http.post("/jobs", json={"prompt": "a"}, headers={"Prefer": "respond-async, wait=10"})
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=10"
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert "retry-after" not in answer.headers


async def test_after_the_time_that_was_preferred_the_job_is_told_as_it_is(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: real(0 if seconds == 7 else seconds))
    api.pipeline.hold()
    answer = await api.http.post("/jobs", json={"prompt": "a"}, headers={"Prefer": "wait=7"})
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert int(answer.headers["retry-after"]) >= 1


async def test_who_asks_for_a_job_may_wait_for_its_end_too(api: Api) -> None:
    api.pipeline.hold()
    job = await api.submit()
    asked = asyncio.create_task(api.http.get(f"/jobs/{job['id']}", headers={"Prefer": "wait=10"}))
    await settled()
    assert not asked.done()
    api.pipeline.allow(STEPS)
    answer = await asked
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=10"


async def test_who_waited_in_vain_is_told_the_job_as_it_is(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    real = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: real(0 if seconds == 7 else seconds))
    api.pipeline.hold()
    job = await api.submit()
    answer = await api.http.get(f"/jobs/{job['id']}", headers={"Prefer": "wait=7"})
    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    problem(await api.http.get(f"/jobs/{job['id']}", headers={"Prefer": "wait=0"}), 400)


@pytest.mark.parametrize("prefer", ["", "respond-async", "waits=3", "handling=strict; foo=wait"])
async def test_other_preferences_are_not_ours(api: Api, prefer: str) -> None:
    answer = await api.http.post("/jobs", json={"prompt": "a"}, headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("prefer", ["wait=10", "a; wait = 10 ,b", 'x,wait="10"', "wait=10, wait=20", "a,,;wait=10;;"])
def test_a_wait_is_found_among_other_preferences(prefer: str) -> None:
    assert wait_s(prefer) == 10


@pytest.mark.parametrize("part", [" ", "wait", "wait=", "wait= ", ",", ";", "=", '"', "wait =,", " ,", "\\"])
def test_the_time_to_read_preferences_grows_no_faster_than_they_do(part: str) -> None:
    """A million characters, which would take minutes where something was tried again at each."""
    since = time.thread_time()
    with suppress(InvalidRequest):
        wait_s("wait=" + part * (1_000_000 // len(part)) + "x y")
    assert time.thread_time() - since < 20


@pytest.mark.parametrize("wait", ["0", "301", "-1", "1.5", "soon", "", "9" * 5000, "000000300999"])
async def test_a_wait_that_is_none_is_refused(api: Api, wait: str) -> None:
    error = problem(await api.http.post("/jobs", json={"prompt": "a"}, headers={"Prefer": f"wait={wait}"}), 400)
    assert (error["param"], "from 1 to 300" in error["message"]) == ("Prefer", True)
    await api.assert_idle()


async def test_many_jobs_are_listed_a_page_at_a_time(api: Api) -> None:
    ids = [(await api.ended(await api.submit()))["id"] for _ in range(5)]
    pages, after = [], None
    while True:
        page = (await api.http.get("/jobs", params={"limit": 2} | ({"after": after} if after else {}))).json()
        pages.append([job["id"] for job in page["data"]])
        after = page["last_id"]
        if not page["has_more"]:
            break
    newest_first = ids[::-1]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:]]


async def test_jobs_are_listed_by_status(api: Api) -> None:
    done = await api.ended(await api.submit())
    api.pipeline.hold()
    running, waiting, last, gone = [await api.submit(num_images=2) for _ in range(4)]
    await api.http.post(f"/jobs/{gone['id']}/cancel")
    await until(lambda: api.pipeline.running == 2)

    async def listed(**params: Any) -> list[str]:
        return [job["id"] for job in (await api.http.get("/jobs", params=params)).json()["data"]]

    assert await listed(status="succeeded") == [done["id"]]
    assert await listed(status="running") == [running["id"]]
    assert await listed(status="queued") == [last["id"], waiting["id"]]
    assert await listed(status="queued", limit=1) == [last["id"]]
    assert await listed(status="queued", after=last["id"]) == [waiting["id"]]
    assert await listed(status="queued", after=done["id"]) == []
    assert await listed(status="cancelled") == [gone["id"]]
    assert await listed(status="failed") == []
    assert len(await listed()) == 5


@pytest.mark.parametrize(
    ("params", "status", "param"),
    [
        ({"status": "done"}, 400, "status"),
        ({"limit": 0}, 400, "limit"),
        ({"limit": 101}, 400, "limit"),
        ({"limit": "all"}, 400, "limit"),
        ({"after": "job_0"}, 404, "after"),
    ],
)
async def test_a_list_that_cannot_be_is_refused(
    api: Api, params: dict[str, Any], status: int, param: str | None
) -> None:
    assert problem(await api.http.get("/jobs", params=params), status)["param"] == param


async def test_a_strangers_job_is_no_place_to_begin_a_list_at(api: Api) -> None:
    job = await api.submit()
    refused = problem(await api.caller("10.0.0.2").get("/jobs", params={"after": job["id"]}), 404)
    assert refused["param"] == "after"
    assert refused["message"] == f"after must be the id of a job that POST /v1/jobs returned; there is no {job['id']}."
