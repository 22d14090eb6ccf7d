"""A real Chromium, for the tests of the page."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from benchmarks.chromium import INTERACTIVE, MISSING, find_chromium, running_chromium

TIMEOUT_MS = 15_000
Profile = Callable[[], BrowserContext]
NUMBER = "[data-testid=number-input]"
WINDOW: ViewportSize = {"width": 1280, "height": 900}


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
        made.append(chromium.new_context(viewport=WINDOW))
        return made[-1]

    yield new
    for context in made:
        context.close()


class Tab:
    """A tab that the tests of a file share: in a new profile, Chromium compiles all scripts again for each test."""

    def __init__(self, context: BrowserContext) -> None:
        self._context = context

    def anew(self, site: str) -> Page:
        """Return the tab as a new profile has it, with nothing stored. Listeners of a test stay: it makes a profile."""
        first, *others = self._context.pages or [self._context.new_page()]
        for page in others:
            page.close()
        self._context.clear_cookies()
        self._context.clear_permissions()
        first.unroute_all()
        first.set_viewport_size(WINDOW)
        first.emulate_media(color_scheme="light", reduced_motion="no-preference")
        first.goto(f"{site}/v1/health")  # where no script of the page stores anything again
        first.evaluate("localStorage.clear(), sessionStorage.clear()")
        return loaded(first, site)


@pytest.fixture(scope="module")
def shared_tab(chromium: Browser) -> Iterator[Tab]:
    """The tab of a file's tests."""
    with chromium.new_context() as context:
        yield Tab(context)


def opened(context: BrowserContext, url: str) -> Page:
    """Open the page in a tab of a profile; return when it can generate."""
    return loaded(context.new_page(), url)


def loaded(page: Page, url: str) -> Page:
    """Load the page in a tab; return when it can generate."""
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.wait_for_selector(INTERACTIVE)
    return page


def generate(page: Page, prompt: str) -> None:
    """Fill in a prompt and press the button."""
    page.fill("#prompt textarea", prompt)
    page.click("#generate")
