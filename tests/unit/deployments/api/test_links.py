"""A job's link: who has it may look at the job and its pictures, and nothing more."""

from pathlib import Path
from typing import Any

import pytest

from deployments.keys import KEYS, new_key
from tests.unit.deployments.api.caller import Api, events, problem, size_of


def link_of(api: Api, job: dict[str, Any]) -> dict[str, str]:
    """The query of a job's link, which API answers do not tell."""
    return {"link": api.dispatcher._queue.job(job["id"]).link}


async def test_a_stranger_with_the_link_reads_the_job_watches_it_and_gets_its_picture(api: Api) -> None:
    stranger = api.caller("10.0.0.2")
    job = await api.ended(await api.submit())
    link = link_of(api, job)
    assert (await stranger.get(f"/jobs/{job['id']}", params=link)).json() == job
    assert events(await stranger.get(f"/jobs/{job['id']}/watch", params=link)) == [("job", job)]
    url = job["images"][0]["url"].removeprefix("/v1")
    answer, own = await stranger.get(url, params=link), await api.http.get(url)
    assert size_of(answer.content) == (4, 4)
    assert answer.headers == own.headers
    assert "immutable" in answer.headers["cache-control"]
    again = await stranger.get(url, params=link, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("params", [{}, {"link": ""}, {"link": "wrong"}, {"link": "é\0"}, {"link": "x" * 100}])
async def test_with_a_wrong_link_or_an_empty_one_there_is_no_such_job(api: Api, params: dict[str, str]) -> None:
    stranger = api.caller("10.0.0.2")
    job, other = await api.ended(await api.submit()), await api.submit()
    for path in (f"/jobs/{job['id']}", f"/jobs/{job['id']}/watch", job["images"][0]["url"].removeprefix("/v1")):
        for given in (params, link_of(api, other)):
            assert problem(await stranger.get(path, params=given), 404)["code"] == "not_found"
        assert (await api.http.get(path, params=params)).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/jobs/{}/cancel"), ("DELETE", "/jobs/{}")])
async def test_a_link_ends_no_job_and_lists_none(api: Api, method: str, path: str) -> None:
    api.pipeline.hold()
    job = await api.submit()
    stranger, link = api.caller("10.0.0.2"), link_of(api, job)
    problem(await stranger.request(method, path.format(job["id"]), params=link), 404)
    assert (await stranger.get("/jobs", params=link)).json()["data"] == []
    assert (await api.http.get(f"/jobs/{job['id']}")).json()["status"] == "running"


@pytest.mark.parametrize("path", ["/jobs/job_0", "/jobs/job_0/watch", "/files/x.png"])
async def test_a_link_that_is_too_long_is_refused(api: Api, path: str) -> None:
    assert problem(await api.http.get(path, params={"link": "x" * 101}), 400)["param"] == "link"


async def test_with_keys_on_a_link_needs_a_key_beside_it_but_for_the_image_itself(tmp_path: Path) -> None:
    (ada, ada_secret), (bob, bob_secret) = new_key("ada"), new_key("bob")
    keys = tmp_path / "keys.json"
    keys.write_bytes(KEYS.dump_json([ada, bob]))
    api = Api(tmp_path / "images", keys=keys)
    hers, his = ({"Authorization": f"Bearer {secret}"} for secret in (ada_secret, bob_secret))
    job = (await api.http.post("/jobs", json={"prompt": "a"}, headers=hers | {"Prefer": "wait=9"})).json()
    link = link_of(api, job)
    file = job["images"][0]["url"].removeprefix("/v1")
    for path in (f"/jobs/{job['id']}", file):
        assert (await api.http.get(path, params=link, headers=his)).status_code == 200
        problem(await api.http.get(path), 401)
    problem(await api.http.get(f"/jobs/{job['id']}", params=link), 401)
    assert (await api.http.get(file, params=link)).status_code == 200
