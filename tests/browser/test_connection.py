"""The page when its connection breaks."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site
from tests.browser.forwarder import Forwarder, forwarding
from tests.chromium import Profile, opened

PROMPT = "a red circle on a blue background"


@pytest.fixture
def forwarder(site: Site) -> Iterator[Forwarder]:
    site.pipeline.go.set()
    with forwarding(urlsplit(site.url).port or 0) as forwarder:
        yield forwarder
    site.pipeline.go.set()


@pytest.fixture
def far_page(forwarder: Forwarder, profile: Profile) -> Page:
    """The page, ready to generate, by way of the forwarder."""
    return opened(profile(), f"http://127.0.0.1:{forwarder.port}")


def tokens_counted(page: Page, prompt: str) -> None:
    """Type, and wait for what the server says of it: the page's event stream is open then."""
    page.fill("#prompt textarea", prompt)
    expect(page.locator("#tokens")).to_have_text(re.compile("tokens"))


def test_a_page_whose_connection_was_cut_while_nothing_ran_generates(far_page: Page, forwarder: Forwarder) -> None:
    tokens_counted(far_page, PROMPT)
    forwarder.cut()
    far_page.wait_for_timeout(500)
    forwarder.restore()
    far_page.click("#generate")
    expect(far_page.get_by_role("status").first).to_have_text("Done")
    expect(far_page.locator("#prompt textarea")).to_have_value(PROMPT)
