"""A real Chromium, for the tests of the page."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from benchmarks.chromium import INTERACTIVE, MISSING, find_chromium, running_chromium

TIMEOUT_MS = 15_000
Profile = Callable[[], BrowserContext]
NUMBER = "[data-testid=number-input]"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for the tests of a file."""
    if find_chromium() is None:
        pytest.skip(MISSING)
    expect.set_options(timeout=TIMEOUT_MS)
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def profile(chromium: Browser) -> Iterator[Profile]:
    """Makes fresh profiles, as of several people."""
    made: list[BrowserContext] = []

    def new() -> BrowserContext:
        made.append(chromium.new_context(viewport={"width": 1280, "height": 900}))
        return made[-1]

    yield new
    for context in made:
        context.close()


def opened(context: BrowserContext, url: str) -> Page:
    """Open the page in a profile; return when it can generate."""
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.wait_for_selector(INTERACTIVE)
    return page


def generate(page: Page, prompt: str) -> None:
    """Fill in a prompt and press the button."""
    page.fill("#prompt textarea", prompt)
    page.click("#generate")
