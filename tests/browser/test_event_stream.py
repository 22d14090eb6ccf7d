"""The page's watch over its event streams, alone: in a real Chromium, with a fetch that is a fake."""

import pytest
from playwright.sync_api import Page

from gradio_ingress.app import FOLDER
from tests.chromium import TIMEOUT_MS, Profile, chromium, profile  # noqa: F401

FAKE_FETCH = """
window.streams = [];
window.fetch = async (url, options) => {
  window.options = options;
  if (url.endsWith("/queue/join")) await window.held;
  if (!url.endsWith("/queue/data")) return new Response("{}", { status: window.answer ?? 200 });
  const body = new ReadableStream({ start: (controller) => streams.push({ controller }) });
  return new Response(body);
};
window.open_stream = async () => {
  const response = await fetch("http://page/queue/data");
  const stream = streams.at(-1);
  stream.text = response.text().then((text) => (stream.received = text));
};
"""


@pytest.fixture
def page(profile: Profile) -> Page:  # noqa: F811
    page = profile().new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.clock.install()
    page.goto("about:blank")
    page.add_script_tag(content=FAKE_FETCH)
    page.add_script_tag(path=FOLDER / "event_stream.js")
    return page


def test_a_stream_that_ends_leaves_the_next_one_watched(page: Page) -> None:
    page.evaluate("open_stream()")
    page.evaluate("open_stream()")
    page.evaluate("streams[0].controller.close(); streams[0].text")
    page.evaluate("fetch('http://page/queue/join')")
    page.clock.fast_forward(15_000)
    page.wait_for_function("streams[1].received?.includes('broken_connection')")


def test_a_caller_can_still_abort_its_request(page: Page) -> None:
    page.evaluate("window.caller = new AbortController()")
    page.evaluate("fetch('http://page/queue/join', { signal: caller.signal })")
    assert page.evaluate("options.signal.aborted") is False
    page.evaluate("caller.abort()")
    assert page.evaluate("options.signal.aborted") is True


def test_a_slow_answer_is_told_until_it_comes(page: Page) -> None:
    page.evaluate("window.told = []; addEventListener('connection', (event) => told.push(event.detail))")
    page.evaluate("open_stream()")
    page.evaluate("fetch('http://page/queue/join')")
    page.clock.fast_forward(3_000)
    assert page.evaluate("told") == ["answers", "slow"]
    page.evaluate("streams[0].controller.enqueue(new TextEncoder().encode('data: {}'))")
    page.wait_for_function("told.length === 3")
    assert page.evaluate("told.at(-1)") == "answers"
    page.clock.fast_forward(3_000)
    assert page.evaluate("told.length") == 3


def test_an_answer_that_comes_before_its_event_is_accepted_leaves_nothing_to_wait_for(page: Page) -> None:
    page.evaluate("window.told = []; addEventListener('connection', (event) => told.push(event.detail))")
    page.evaluate("open_stream()")
    page.evaluate("window.held = new Promise((accept) => (window.accept = accept)); null")
    page.evaluate("window.joining = fetch('http://page/queue/join'); null")
    page.evaluate("streams[0].controller.enqueue(new TextEncoder().encode('data: {}'))")
    page.wait_for_function("told.length === 1")
    page.evaluate("accept(); joining.then(() => null)")
    page.clock.fast_forward(3_000)
    assert page.evaluate("told") == ["answers", "answers"]
    page.clock.fast_forward(12_000)
    assert page.evaluate("streams[0].received") is None


@pytest.mark.parametrize("answer", [401, 429, 503])
def test_a_refused_event_is_told_whatever_an_open_stream_brings_until_one_is_accepted(page: Page, answer: int) -> None:
    page.evaluate("window.told = []; addEventListener('connection', (event) => told.push(event.detail))")
    page.evaluate("open_stream()")
    page.evaluate("status => { answer = status; return fetch('http://page/queue/join') }", answer)
    assert page.evaluate("told") == ["refused"]
    page.evaluate("streams[0].controller.enqueue(new TextEncoder().encode('data: {}')); streams[0].controller.close()")
    page.wait_for_function("streams[0].received?.includes('data: {}')")
    assert page.evaluate("told") == ["refused"]
    page.evaluate("answer = 200; fetch('http://page/queue/join')")
    assert page.evaluate("told") == ["refused", "answers"]


def test_an_event_that_is_refused_is_told_although_one_before_it_is_still_to_be_answered(page: Page) -> None:
    page.evaluate("window.told = []; addEventListener('connection', (event) => told.push(event.detail))")
    page.evaluate("open_stream()")
    page.evaluate("fetch('http://page/queue/join')")
    page.evaluate("answer = 503; fetch('http://page/queue/join')")
    page.clock.fast_forward(3_000)
    assert page.evaluate("told") == ["answers", "refused"]
