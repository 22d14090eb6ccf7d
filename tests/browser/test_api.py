"""The HTTP API in a real browser."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site
from tests.chromium import Profile

WATCH = """async (path) => {
    const ids = [];
    const source = new EventSource(path);
    source.addEventListener("job", (event) => ids.push(event.lastEventId));
    const giveUpAt = Date.now() + 15_000; // the browser comes back after three seconds
    while (source.readyState !== EventSource.CLOSED && Date.now() < giveUpAt) {
        await new Promise((done) => setTimeout(done, 50));
    }
    return [source.readyState === EventSource.CLOSED, ids];
}"""


@pytest.fixture
def tab(site: Site, profile: Profile) -> Page:
    """An empty tab."""
    site.pipeline.go.set()
    return profile().new_page()


def test_an_event_source_closes_once_it_has_seen_the_end_of_a_job(tab: Page, site: Site) -> None:
    tab.goto(f"{site.url}/v1/health")
    job = tab.request.post(f"{site.url}/v1/jobs", data={"prompt": "a"}, headers={"Prefer": "wait=60"}).json()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    assert tab.evaluate(WATCH, f"/v1/jobs/{job['id']}/watch") == [True, [str(job["version"])]]
    assert len(asked) == 2  # the second is the browser's own, and is answered 204


def test_the_description_of_the_api_needs_no_other_host(tab: Page, site: Site) -> None:
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"{site.url}/v1/docs")
    expect(tab.get_by_text("/images/generations")).to_be_visible()
    assert [url for url in asked if not url.startswith((site.url, "data:"))] == []
