"""Gradio's own client, as it is installed, against the page over a fake cluster."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client

from gradio_ingress.page_auth import owner_or_tab
from tests.browser.conftest import Site

TIMEOUT_S = 15.0


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    site.pipeline.go.set()
    client = Client(site.url, verbose=False, download_files=False)
    yield client
    client.close()
    site.pipeline.go.set()


def owner(client: Client) -> str:
    return owner_or_tab(None, client.session_hash)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def states(site: Site, client: Client) -> dict[str, str]:
    return {job.specs[0].prompt: job.status for job in site.jobs(owner(client))}


def test_an_image_has_an_address_that_opens_anywhere(client: Client) -> None:
    [file], seed, about = client.predict("a star", seed=7, api_name="/generate")
    assert file["url"].startswith(f"{client.src.rstrip('/')}/v1/files/{about['id']}")
    assert seed == 7
    answer = httpx.get(file["url"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_a_client_fetches_the_files_itself(site: Site, tmp_path: Path) -> None:
    client = Client(site.url, verbose=False, download_files=str(tmp_path))
    [path], *_ = client.predict("a star", api_name="/generate")
    client.close()
    assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_a_call_that_is_cancelled_ends_its_job_and_no_other(site: Site, client: Client) -> None:
    site.pipeline.go.clear()
    calls = {prompt: client.submit(prompt, api_name="/generate") for prompt in ("a star", "a moon", "a ring")}
    wait_for(lambda: len(states(site, client)) == 3)
    assert calls["a star"].cancel()
    assert calls["a ring"].cancel()
    assert states(site, client)["a star"] == "cancelled"
    assert states(site, client)["a ring"] == "cancelled"
    site.pipeline.go.set()
    [file], _, about = calls["a moon"].result(timeout=TIMEOUT_S)
    assert about["id"] in file["url"]
    assert states(site, client) == {"a star": "cancelled", "a moon": "succeeded", "a ring": "cancelled"}


def test_a_client_that_leaves_ends_no_job(site: Site) -> None:
    site.pipeline.go.clear()
    joined = httpx.post(f"{site.url}/gradio_api/call/v2/generate", json={"prompt": "a star"}).json()["event_id"]
    job_of = owner_or_tab(None, joined)
    wait_for(lambda: len(site.jobs(job_of)) == 1)
    with httpx.stream("GET", f"{site.url}/gradio_api/call/v2/generate/{joined}", timeout=TIMEOUT_S):
        time.sleep(0.2)
    time.sleep(0.2)
    site.pipeline.go.set()
    wait_for(lambda: site.jobs(job_of)[0].status == "succeeded")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"event_id": "nobody's", "session_hash": "a", "fn_index": 0}, 200),
        ({"event_id": "nobody's", "session_hash": "a", "fn_index": 10**6}, 200),
        ({"event_id": None, "session_hash": "a", "fn_index": 0}, 422),
    ],
)
def test_a_cancel_of_no_call_changes_nothing(site: Site, client: Client, body: dict[str, object], status: int) -> None:
    site.pipeline.go.clear()
    call = client.submit("a star", api_name="/generate")
    wait_for(lambda: states(site, client) == {"a star": "running"})
    assert httpx.post(f"{site.url}/gradio_api/cancel", json=body).status_code == status
    assert states(site, client) == {"a star": "running"}
    site.pipeline.go.set()
    call.result(timeout=TIMEOUT_S)
    assert states(site, client) == {"a star": "succeeded"}


def test_nobody_else_cancels_a_call(site: Site) -> None:
    site.pipeline.go.clear()
    joined = httpx.post(f"{site.url}/gradio_api/call/v2/generate", json={"prompt": "a star"}).json()["event_id"]
    wait_for(lambda: len(site.jobs(owner_or_tab(None, joined))) == 1)
    cancel = {"event_id": joined, "session_hash": "another", "fn_index": 0}
    answer = httpx.post(f"{site.url}/gradio_api/cancel", json=cancel)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert httpx.post(f"{site.url}/gradio_api/cancel", json=cancel | {"session_hash": joined}).json() == {
        "success": True
    }
    assert site.jobs(owner_or_tab(None, joined))[0].status == "cancelled"
    site.pipeline.go.set()
