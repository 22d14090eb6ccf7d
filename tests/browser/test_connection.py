"""The page when its connection breaks, and what was typed meanwhile."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from benchmarks.chromium import INTERACTIVE
from models.errors import Unavailable
from models.model_card import ModelCard
from tests.browser.conftest import Site
from tests.browser.forwarder import Forwarder, forwarding
from tests.chromium import NUMBER, TIMEOUT_MS, Profile, generate, opened

PROMPT = "a red circle on a blue background"
NEXT = "the next prompt"
JOIN = "**/queue/join?*"  # where Gradio accepts an event
LOADED_AGAIN = f"window.before === undefined && document.querySelector('{INTERACTIVE}')"


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
    expect(far_page.get_by_role("status").first).to_have_text("Ready.")  # a count of tokens may have been cut after all
    far_page.click("#generate")
    expect(far_page.get_by_role("status").first).to_have_text("Done")
    expect(far_page.locator("#prompt textarea")).to_have_value(PROMPT)


@pytest.mark.parametrize("what", ["events", "answers"])
def test_a_page_whose_connection_has_gone_silent_recovers_with_its_draft(
    forwarder: Forwarder, profile: Profile, what: str
) -> None:
    page = profile().new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.clock.install()
    page.goto(f"http://127.0.0.1:{forwarder.port}")
    page.wait_for_selector(INTERACTIVE)
    tokens_counted(page, PROMPT)
    page.evaluate("window.before = true")
    if what == "events":
        forwarder.silence_streams()
        page.evaluate("addEventListener('connection', ({ detail }) => (window.told = detail))")
        page.click("#generate")
        page.wait_for_function("window.told === 'answers'")  # it is accepted, and nothing comes of it
        page.clock.fast_forward(3_000)
        expect(page.locator("#connection")).to_contain_text("has not answered yet")
        page.clock.fast_forward(15_000)
    else:
        page.route(JOIN, lambda route: None)  # no answer comes
        with page.expect_request(JOIN):
            page.click("#generate")
        page.clock.fast_forward(3_000)
        expect(page.locator("#connection")).to_contain_text("has not answered yet")
        with page.expect_event("requestfailed", lambda request: "/queue/join?" in request.url):
            page.clock.fast_forward(15_000)
        page.unroute(JOIN)  # not before: it lets go what was held back
    page.wait_for_function(LOADED_AGAIN)
    expect(page.locator("#prompt textarea")).to_have_value(PROMPT)
    page.click("#generate")
    expect(page.get_by_role("status").first).to_have_text("Done")


def test_a_cut_while_a_job_runs_brings_back_the_job_and_what_is_typed_meanwhile(
    site: Site, far_page: Page, forwarder: Forwarder
) -> None:
    site.pipeline.go.clear()
    generate(far_page, PROMPT)
    expect(far_page.get_by_role("progressbar")).to_be_visible()
    far_page.fill("#prompt textarea", "the next")
    forwarder.cut()
    far_page.evaluate("window.before = true")
    far_page.fill("#prompt textarea", NEXT)
    far_page.click("#cancel")  # in vain
    _expect_lost(far_page)
    for old in ("#tokens .tokens", "#status .status[data-state=running]"):
        expect(far_page.locator(old)).to_have_count(1)
        expect(far_page.locator(old)).to_be_hidden()
    forwarder.restore()
    far_page.wait_for_function(LOADED_AGAIN)
    expect(far_page.get_by_role("progressbar")).to_be_visible()
    expect(far_page.locator("#prompt textarea")).to_have_value(NEXT)
    site.pipeline.go.set()
    expect(far_page.get_by_role("img", name=PROMPT, exact=True)).to_be_visible()


def _expect_lost(page: Page) -> None:
    expect(page.locator("#connection")).to_contain_text("The connection to the service is lost.")


def test_what_was_typed_offline_is_there_after_the_page_has_loaded_again(far_page: Page, forwarder: Forwarder) -> None:
    tokens_counted(far_page, PROMPT)
    forwarder.cut()
    far_page.evaluate("window.before = true")
    far_page.fill("#prompt textarea", NEXT)
    far_page.click("#generate")
    _expect_lost(far_page)
    expect(far_page.get_by_text("Ready.")).to_be_hidden()
    forwarder.restore()
    far_page.wait_for_function(LOADED_AGAIN)
    expect(far_page.locator("#connection .status")).to_have_count(0)
    expect(far_page.locator("#prompt textarea")).to_have_value(NEXT)
    far_page.click("#generate")
    expect(far_page.get_by_role("status").first).to_have_text("Done")


def test_generate_that_the_service_refuses_queues_nothing_and_says_so_until_one_is_accepted(
    page: Page, site: Site
) -> None:
    tokens_counted(page, PROMPT)  # its event stream stays open, and goes on
    page.route(JOIN, lambda route: route.fulfill(status=503, json={"error": {"message": "The service is stopping."}}))
    page.click("#generate")
    expect(page.locator("#connection")).to_contain_text("nothing was queued")
    expect(page.get_by_text("Ready.")).to_be_hidden()
    assert not site.pipeline.specs
    page.unroute(JOIN)
    page.click("#generate")
    expect(page.locator("#status").get_by_role("status")).to_have_text("Done")
    expect(page.locator("#connection .status")).to_have_count(0)
    assert page.get_by_test_id("toast-body").count() == 0, "Gradio's own words, which stay for ten seconds"


def test_tokens_that_could_not_be_counted_are_hidden_and_counted_once_an_event_is_accepted(page: Page) -> None:
    tokens_counted(page, PROMPT)
    page.route(JOIN, lambda route: route.fulfill(status=503, json={}))
    page.fill("#prompt textarea", "a star")
    expect(page.locator("#connection")).to_contain_text("nothing was queued")
    expect(page.locator("#tokens")).to_be_hidden()
    page.unroute(JOIN)
    page.click("#generate")
    expect(page.locator("#tokens")).to_have_text("2/30 tokens")
    expect(page.locator("#tokens")).to_be_visible()


def test_the_whole_form_survives_reload_and_back(page: Page, site: Site) -> None:
    page.click("#advanced button")  # first: Gradio sets up what is in it as it opens
    page.fill("#prompt textarea", PROMPT)
    page.fill(f"#num_images {NUMBER}", "3")
    page.locator("#style input").click()
    page.get_by_role("option", name="Cartoon").click()
    page.fill("#negative_prompt textarea", "blurry")
    page.fill(f"#num_inference_steps {NUMBER}", "5")
    page.fill("#seed input", "9")
    page.locator("#seed input").blur()
    page.reload()
    _expect_the_form(page)
    page.goto(f"{site.url}/v1/models")
    page.go_back()
    _expect_the_form(page)


def _expect_the_form(page: Page) -> None:
    page.wait_for_selector(INTERACTIVE)
    expect(page.locator("#prompt textarea")).to_have_value(PROMPT)
    expect(page.locator(f"#num_images {NUMBER}")).to_have_value("3")
    expect(page.locator("#style input")).to_have_value("Cartoon")
    page.click("#advanced button")
    expect(page.locator("#negative_prompt textarea")).to_have_value("blurry")
    expect(page.locator(f"#num_inference_steps {NUMBER}")).to_have_value("5")
    expect(page.locator("#seed input")).to_have_value("9")
    expect(page.get_by_label("Randomize")).not_to_be_checked()


def test_a_prompt_that_is_typed_while_the_service_starts_survives_a_reload(
    site: Site, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def still_starting() -> list[ModelCard]:
        raise Unavailable("The service is still starting.")

    with monkeypatch.context() as starting:
        starting.setattr(site.cluster.client, "models", still_starting)
        page = profile().new_page()
        page.goto(site.url)
        expect(page.get_by_role("status").first).to_contain_text("still starting")
        page.fill("#prompt textarea", PROMPT)
        page.reload()
        expect(page.locator("#prompt textarea")).to_have_value(PROMPT)
    expect(page.locator(INTERACTIVE)).to_be_visible()
    expect(page.locator("#prompt textarea")).to_have_value(PROMPT)


def test_each_tab_has_its_own_draft(page: Page, site: Site) -> None:
    page.fill("#prompt textarea", PROMPT)
    other = opened(page.context, site.url)
    expect(other.locator("#prompt textarea")).to_have_value("")
    other.fill("#prompt textarea", NEXT)
    other.reload()
    page.reload()
    expect(other.locator("#prompt textarea")).to_have_value(NEXT)
    expect(page.locator("#prompt textarea")).to_have_value(PROMPT)


def test_a_shared_job_fills_a_form_without_a_prompt_and_leaves_a_draft(
    page: Page, site: Site, profile: Profile
) -> None:
    generate(page, PROMPT)
    expect(page.get_by_role("status").first).to_have_text("Done")
    guest = opened(profile(), site.url)
    guest.goto(page.url)
    expect(guest.locator("#prompt textarea")).to_have_value(PROMPT)
    writer = opened(profile(), site.url)
    writer.fill("#prompt textarea", NEXT)
    writer.goto(page.url)
    expect(writer.get_by_role("img", name=PROMPT, exact=True)).to_be_visible()
    expect(writer.locator("#prompt textarea")).to_have_value(NEXT)
