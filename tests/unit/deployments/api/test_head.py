"""HEAD, which link checkers, proxies and `curl -I` send."""

import asyncio
from pathlib import Path

import pytest

from tests.unit.deployments.api.caller import Api, problem
from tests.unit.deployments.api.test_auth import Keyed

PATHS = [
    "/health",
    "/ready",
    "/models",
    "/models/shapes",
    "/models/other",
    "/hf/models/shapes/health",
    "/queue",
    "/jobs",
    "/jobs/{job}",
    "/jobs/{job}/watch",
    "/jobs/job_0",
    "/files/{file}",
    "/files/x.png",
    "/openapi.json",
    "/docs",
    "/nothing",
]


@pytest.mark.parametrize("path", PATHS)
async def test_head_has_the_status_and_the_headers_of_get(api: Api, path: str) -> None:
    job = await api.ended(await api.submit())
    path = path.format(job=job["id"], file=job["images"][0]["name"])
    head, got = [await api.http.request(method, path) for method in ("HEAD", "GET")]
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers == got.headers


async def test_head_of_a_watch_does_not_wait_for_the_job(api: Api) -> None:
    api.pipeline.hold()
    job = await api.submit()
    answer = await asyncio.wait_for(api.http.head(f"/jobs/{job['id']}/watch"), timeout=15)
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_head_needs_a_key_where_get_does(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path)
    assert (await keyed.call(None, "HEAD", "/queue")).status_code == 401
    assert (await keyed.call(keyed.ada, "HEAD", "/queue")).status_code == 200


async def test_head_changes_nothing_and_a_405_names_it_beside_get(api: Api) -> None:
    answer = await api.http.head("/images/generations")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = await api.http.put("/jobs")
    problem(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD, POST"
    await api.assert_idle()
