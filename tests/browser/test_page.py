"""The page in a real browser."""

import asyncio
import io
import re
import threading
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect

from models.spec import Tokens
from tests.browser.conftest import Site
from tests.chromium import NUMBER, Profile, generate, loaded, opened
from tests.unit.gradio_ingress.fakes import CARD

PROMPT = "a red circle on a blue background"


def test_a_typed_prompt_ends_in_a_picture(page: Page) -> None:
    expect(page.locator("#prompt textarea")).to_be_focused()
    page.keyboard.type(PROMPT)
    page.get_by_role("button", name="Generate").click()
    picture = page.get_by_role("img", name=PROMPT, exact=True)
    expect(picture).to_have_attribute("src", re.compile(r"^/v1/files/job_"))
    page.wait_for_function("document.querySelector('.tile[data-state=done] img').naturalWidth === 64")


def test_control_enter_generates_and_the_seed_used_is_shown(page: Page, site: Site) -> None:
    page.fill("#prompt textarea", PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status").first).to_have_text("Done")
    seed = str(site.pipeline.specs[0].seed)
    expect(page.locator(".status")).to_contain_text(f"seed {seed}")
    page.click("#advanced button")
    expect(page.locator("#seed input")).to_have_value(seed)


def test_the_downloaded_file_keeps_its_metadata(page: Page) -> None:
    page.fill("#prompt textarea", PROMPT)
    page.keyboard.press("Control+Enter")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    picture = Image.open(io.BytesIO(download.value.path().read_bytes()))
    assert picture.info["parameters"].startswith(f"{PROMPT}\nSteps: 8")


def test_an_empty_prompt_is_refused_by_name(page: Page, site: Site) -> None:
    page.click("#generate")
    expect(page.get_by_role("status").first).to_contain_text("Prompt must")
    assert not site.pipeline.specs


def test_numbers_out_of_bounds_are_refused_on_their_field_and_not_corrected(page: Page, site: Site) -> None:
    page.fill("#prompt textarea", PROMPT)
    page.click("#advanced button")
    page.fill(f"#num_inference_steps {NUMBER}", "500")
    page.click("#advanced button")
    page.click("#generate")
    words = "Inference steps must be 150 or less"
    expect(page.get_by_role("status").first).to_contain_text(words)
    expect(page.locator("#num_inference_steps .field-error")).to_contain_text(words)  # the settings have opened
    expect(page.locator(f"#num_inference_steps {NUMBER}")).to_be_focused()
    expect(page.locator(f"#num_inference_steps {NUMBER}")).to_have_value("500")
    expect(page.locator(f"#num_inference_steps {NUMBER}")).to_have_attribute("aria-invalid", "true")
    page.fill(f"#num_inference_steps {NUMBER}", "8")
    page.fill("#seed input", "-2")
    page.click("#generate")
    expect(page.get_by_role("status").first).to_contain_text("Seed must be -1 or more")
    expect(page.locator(".field-error")).to_have_count(1)
    assert not site.pipeline.specs


def test_progress_and_previews_show_until_cancel_ends_the_job(page: Page, site: Site) -> None:
    site.pipeline.go.clear()
    page.fill("#prompt textarea", PROMPT)
    page.click("#generate")
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", "4")
    expect(bar).to_have_attribute("aria-valuemax", "8")
    expect(page.get_by_role("img", name="Preview of")).to_have_attribute("src", re.compile("^data:image/webp"))
    page.locator("#cancel").click()
    expect(page.get_by_role("status").first).to_have_text("Cancelled")
    expect(page.locator("#cancel")).to_be_hidden()


def test_who_waits_sees_their_place_in_line(page: Page, site: Site, profile: Profile) -> None:
    site.pipeline.go.clear()
    page.fill("#prompt textarea", PROMPT)
    page.fill(f"#num_images {NUMBER}", "2")
    page.click("#generate")
    expect(page.get_by_role("progressbar")).to_be_visible()
    other = opened(profile(), site.url)
    other.fill("#prompt textarea", PROMPT)
    other.click("#generate")
    expect(other.get_by_role("status").first).to_have_text("In line: 1st of 1")
    site.pipeline.go.set()
    expect(other.get_by_role("status").first).to_have_text("Done")


def test_an_example_leaves_the_form_as_it_is_but_the_prompt_which_can_be_brought_back(page: Page, site: Site) -> None:
    page.fill("#prompt textarea", "my own\n<words>")
    page.fill(f"#num_images {NUMBER}", "2")
    example = f"{CARD.examples[1]['prompt']}, cartoon"
    page.get_by_role("button", name=example).click()
    expect(page.locator("#status").get_by_role("status")).to_have_text("Done")
    expect(page.locator("#prompt textarea")).to_have_value(example)
    expect(page.locator("#style input")).to_have_value("None")
    expect(page.locator(f"#num_images {NUMBER}")).to_have_value("2")
    assert {spec.prompt for spec in site.pipeline.specs} == {example}
    page.get_by_role("button", name=CARD.examples[0]["prompt"]).click()
    expect(page.locator("#prompt textarea")).to_have_value(CARD.examples[0]["prompt"])
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#prompt textarea")).to_have_value("my own\n<words>")
    expect(page.get_by_role("button", name="Undo")).to_have_count(0)
    page.get_by_role("button", name=CARD.examples[0]["prompt"]).click()
    expect(page.locator("#status .detail")).to_contain_text("seeds 7 to 8")
    page.click("#advanced button")
    expect(page.get_by_label("Randomize")).to_be_checked()


def test_sections_say_whether_they_are_open(page: Page) -> None:
    for heading in ("My jobs", "Image", "Advanced", "PNG info"):
        button = page.get_by_role("button", name=heading, exact=False).and_(page.locator(".label-wrap"))
        for expanded in ("false", "true", "false"):
            expect(button).to_have_attribute("aria-expanded", expanded)
            button.click()
    generate(page, PROMPT)
    receipt = page.locator("#receipt .label-wrap")
    expect(receipt).to_have_attribute("aria-expanded", "false")  # which was not there before
    receipt.click()
    expect(receipt).to_have_attribute("aria-expanded", "true")


def test_the_focus_of_a_button_that_goes_is_passed_on(page: Page, site: Site) -> None:
    for ended in ("Cancelled", "Done"):
        site.pipeline.go.clear()
        generate(page, PROMPT)
        page.locator("#cancel").focus()
        page.keyboard.press("Enter") if ended == "Cancelled" else site.pipeline.go.set()
        expect(page.locator("#cancel")).to_be_hidden()
        expect(page.locator("#status").get_by_role("status")).to_have_text(ended)
        expect(page.locator("#generate")).to_be_focused()
    site.pipeline.go.clear()
    generate(page, "a moon")
    page.click("#mine button")
    page.locator(".jobs li", has_text="a moon").get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    row = page.locator(".jobs li", has_text="a moon")
    expect(row).to_contain_text("Cancelled")
    expect(row.locator(".recall")).to_be_focused()
    page.locator(".jobs .recall", has_text=PROMPT).last.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".jobs [aria-current=true]")).to_contain_text(PROMPT)  # the list is made anew
    expect(page.locator(".jobs .recall", has_text=PROMPT).last).to_be_focused()


def test_undo_brings_the_whole_form_back_after_reused_settings(page: Page) -> None:
    generate(page, PROMPT)
    expect(page.get_by_role("status").first).to_have_text("Done")
    page.click("#advanced button")
    page.fill("#prompt textarea", "")  # so that no prompt is lost, but other values are
    page.fill(f"#num_inference_steps {NUMBER}", "5")
    page.click("#style input")
    page.get_by_role("option", name="Cartoon").click()
    seed = page.input_value("#seed input")
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.locator(f"#num_inference_steps {NUMBER}")).to_have_value("8")
    expect(page.locator("#style input")).to_have_value("None")
    expect(page.get_by_label("Randomize")).not_to_be_checked()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(f"#num_inference_steps {NUMBER}")).to_have_value("5")
    expect(page.locator("#style input")).to_have_value("Cartoon")
    expect(page.locator("#seed input")).to_have_value(seed)
    expect(page.get_by_label("Randomize")).to_be_checked()


def test_an_error_stays_until_its_field_is_edited(page: Page, site: Site) -> None:
    site.pipeline.go.clear()
    generate(page, PROMPT)
    expect(page.get_by_role("progressbar")).to_be_visible()
    generate(page, "")
    box = page.locator("#message .status[data-state=problem]")
    expect(box).to_contain_text("Prompt must")
    expect(page.locator("#prompt .field-error")).to_contain_text("Prompt must")
    site.pipeline.go.set()
    expect(page.locator("#status")).to_contain_text("Done")
    page.fill(f"#num_images {NUMBER}", "2")  # of another field
    page.click("#mine button")
    page.locator(".jobs .recall").first.click()
    page.wait_for_timeout(500)
    expect(box).to_contain_text("Prompt must")
    expect(page.locator("#prompt .field-error")).to_contain_text("Prompt must")
    page.locator("#prompt textarea").press_sequentially("a")
    expect(box).to_have_count(0)
    expect(page.locator(".field-error")).to_have_count(0)
    expect(page.locator("[aria-invalid]")).to_have_count(0)
    page.fill("#prompt textarea", "")
    page.click("#generate")  # the same error again
    expect(page.locator("#prompt .field-error")).to_contain_text("Prompt must")


def test_a_click_on_the_job_that_is_shown_changes_nothing(page: Page, site: Site) -> None:
    page.click("#advanced button")
    generate(page, "a star")
    expect(page.get_by_role("status").first).to_have_text("Done")
    site.pipeline.go.clear()
    generate(page, "a moon")
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.click("#mine button")
    row = page.locator(".jobs .recall", has_text="a star")
    row.click()
    expect(page.get_by_role("img", name="a star", exact=True)).to_be_visible()
    row.dblclick()
    page.wait_for_timeout(1000)
    expect(page.get_by_role("img", name="a star", exact=True)).to_be_visible()
    expect(page.get_by_role("status").first).to_have_text("Done")
    expect(page.locator("#seed input")).to_have_value(str(site.pipeline.specs[1].seed))


@pytest.mark.parametrize("seed", ["", "-1"])
def test_a_seed_that_is_emptied_or_minus_one_is_a_new_one_each_time(page: Page, site: Site, seed: str) -> None:
    page.click("#advanced button")
    page.fill("#seed input", "9")
    expect(page.get_by_label("Randomize")).not_to_be_checked()
    page.fill("#seed input", seed)
    expect(page.get_by_label("Randomize")).to_be_checked()
    for k in (1, 2):
        generate(page, f"star {k}")
        expect(page.get_by_role("img", name=f"star {k}", exact=True)).to_be_visible()
    assert len({spec.seed for spec in site.pipeline.specs}) == 2


def test_all_jobs_can_be_listed(page: Page, site: Site) -> None:
    for k in range(14):
        generate(page, f"star {k}")
        expect(page.locator("#status .status[data-state=succeeded]")).to_be_visible()
        expect(page.get_by_role("img", name=f"star {k}", exact=True)).to_be_visible()
    page.click("#mine button")
    expect(page.locator(".jobs li")).to_have_count(12)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".jobs li")).to_have_count(14)
    expect(page.locator(".jobs .what").first).to_have_text("star 13")
    expect(page.locator(".jobs [aria-current=true]")).to_contain_text("star 13")
    page.locator(".jobs .recall").last.click()
    expect(page.get_by_role("img", name="star 0", exact=True)).to_be_visible()
    expect(page.locator(".jobs li")).to_have_count(14)
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)
    generate(page, "a moon")
    expect(page.get_by_role("status").first).to_have_text("Done")
    expect(page.locator(".jobs li")).to_have_count(15)


def test_the_page_says_what_the_model_can_draw(page: Page) -> None:
    expect(page.locator("#notice")).to_have_text(CARD.notice)


def test_nothing_is_fetched_from_elsewhere_and_nothing_is_missing(site: Site, profile: Profile) -> None:
    page = profile().new_page()
    asked: list[str] = []
    refused: list[tuple[int, str]] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda got: refused.append((got.status, got.url)) if got.status >= 400 else None)
    loaded(page, site.url)
    generate(page, PROMPT)
    expect(page.get_by_role("status").first).to_have_text("Done")
    assert asked
    assert refused == []
    assert [url for url in asked if not url.startswith((site.url, "data:", "blob:"))] == []


def test_on_a_phone_the_page_is_one_column_without_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    compose, job = page.locator("#compose").bounding_box(), page.locator("#job").bounding_box()
    assert compose
    settings = page.locator("#settings").bounding_box()
    assert job
    assert settings
    assert job["y"] > compose["y"] + compose["height"] - 1
    assert settings["y"] > job["y"]


@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_a_reload_in_any_state_brings_the_job_back(page: Page, site: Site, profile: Profile, state: str) -> None:
    if state != "done":
        site.pipeline.go.clear()
    if state == "queued":
        before = opened(profile(), site.url)
        before.fill(f"#num_images {NUMBER}", "2")  # as many as are drawn at a time
        generate(before, "a picture before")
        expect(before.get_by_role("progressbar")).to_be_visible()
    generate(page, PROMPT)
    words = {"queued": "In line", "running": "Denoising", "done": "Done"}[state]
    expect(page.get_by_role("status").first).to_contain_text(words)
    expect(page).to_have_url(re.compile("job=job_"))
    page.reload()
    back = {"done": "Welcome back"}.get(state, words)
    expect(page.get_by_role("status").first).to_contain_text(back)
    site.pipeline.go.set()
    expect(page.get_by_role("img", name=PROMPT, exact=True)).to_have_attribute("src", re.compile("^/v1/files/job_"))
    expect(page.locator("#prompt textarea")).to_have_value(PROMPT)


def test_a_closed_tab_loses_nothing_and_another_tab_takes_over(page: Page, site: Site) -> None:
    site.pipeline.go.clear()
    generate(page, PROMPT)
    expect(page.get_by_role("progressbar")).to_be_visible()
    context = page.context
    page.close()
    again = opened(context, site.url)
    expect(again.get_by_role("progressbar")).to_be_visible()
    site.pipeline.go.set()
    expect(again.get_by_role("img", name=PROMPT, exact=True)).to_be_visible()


def test_a_link_shows_the_picture_in_a_fresh_profile_and_lets_nobody_cancel(
    page: Page, site: Site, profile: Profile
) -> None:
    site.pipeline.go.clear()
    generate(page, PROMPT)
    expect(page.get_by_role("progressbar")).to_be_visible()
    assert "?job=job_" in page.url
    guest = opened(profile(), page.url)
    expect(guest.get_by_role("progressbar")).to_be_visible()
    expect(guest.locator("#cancel")).to_be_hidden()
    site.pipeline.go.set()
    expect(guest.get_by_role("img", name=PROMPT, exact=True)).to_be_visible()
    guest.wait_for_function("document.querySelector('.tile[data-state=done] img').naturalWidth === 64")
    guest.click("#mine button")
    expect(guest.locator("#mine")).to_contain_text("What you generate is listed here.")


def test_several_jobs_run_at_once_and_each_can_be_recalled_and_cancelled(page: Page, site: Site) -> None:
    site.pipeline.go.clear()
    generate(page, "a star")
    expect(page.get_by_role("progressbar")).to_be_visible()
    generate(page, "a moon")
    page.click("#mine button")
    expect(page.locator(".jobs li")).to_have_count(2)
    expect(page.locator(".jobs [aria-current=true]")).to_contain_text("a moon")
    page.locator(".jobs .recall", has_text="a star").click()
    expect(page.locator(".jobs [aria-current=true]")).to_contain_text("a star")
    page.locator(".jobs li", has_text="a moon").get_by_role("button", name="Cancel").click()
    expect(page.locator(".jobs li", has_text="a moon")).to_contain_text("Cancelled")
    site.pipeline.go.set()
    expect(page.locator(".jobs li", has_text="a star")).to_contain_text("Done")


def test_two_tabs_of_one_browser_follow_the_same_job(page: Page, site: Site) -> None:
    site.pipeline.go.clear()
    generate(page, PROMPT)
    expect(page.get_by_role("progressbar")).to_be_visible()
    other = opened(page.context, site.url)
    expect(other.get_by_role("progressbar")).to_be_visible()
    site.pipeline.go.set()
    for tab in (page, other):
        expect(tab.get_by_role("img", name=PROMPT, exact=True)).to_be_visible()


def test_all_pictures_of_a_job_can_be_downloaded_at_once(page: Page) -> None:
    page.fill(f"#num_images {NUMBER}", "3")
    generate(page, PROMPT)
    expect(page.get_by_role("status").first).to_have_text("Done")
    found: list[str] = []
    page.on("download", lambda download: found.append(download.suggested_filename))
    page.get_by_role("button", name="Download all").click()
    page.wait_for_function("document.querySelectorAll('.tile a[download]').length === 3")
    while len(found) < 3:
        page.wait_for_event("download")
    assert len(set(found)) == 3


def test_two_tabs_of_one_browser_share_their_jobs(page: Page, site: Site) -> None:
    generate(page, PROMPT)
    expect(page.get_by_role("status").first).to_have_text("Done")
    other = opened(page.context, site.url)
    other.click("#mine button")
    other.locator(".jobs .recall", has_text=PROMPT).click()
    expect(other.get_by_role("img", name=PROMPT, exact=True)).to_be_visible()


def test_a_tab_hears_of_jobs_that_another_tab_begins(page: Page, site: Site) -> None:
    other = opened(page.context, site.url)
    other.click("#mine button")
    site.pipeline.go.clear()
    generate(page, "a star")
    expect(other.locator(".jobs li")).to_contain_text("a star")
    expect(other.get_by_role("progressbar")).to_be_visible()
    site.pipeline.go.set()
    expect(other.get_by_role("img", name="a star", exact=True)).to_be_visible()
    generate(page, "a moon")
    expect(other.locator(".jobs li", has_text="a moon")).to_contain_text("Done")
    expect(other.locator(".jobs [aria-current=true]")).to_contain_text("a star")


def test_a_hidden_tab_hears_of_jobs_when_it_is_seen_again(page: Page, site: Site) -> None:
    def hide(hidden: bool) -> None:
        other.evaluate("(value) => Object.defineProperty(document, 'hidden', { value, configurable: true })", hidden)
        other.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    def asker(request: Request) -> object:
        """The component whose event calls the server."""
        return (request.post_data_json or {})["trigger_id"] if "/queue/join?" in request.url else None

    other = opened(page.context, site.url)
    other.click("#mine button")
    hide(True)
    other.evaluate("new BroadcastChannel('darkroom').onmessage = () => (window.heard = true)")
    asked: list[object] = []  # by what the page does as it opens, which may still go on
    other.on("request", lambda request: asked.append(asker(request)))
    generate(page, PROMPT)
    expect(page.get_by_role("status").first).to_have_text("Done")
    other.wait_for_function("window.heard")
    before = {None, *asked}
    with other.expect_request(lambda request: asker(request) not in before):
        hide(False)
    expect(other.locator(".jobs li")).to_contain_text("Done")


def test_the_tokens_of_a_prompt_are_counted_and_what_is_cut_is_quoted(page: Page) -> None:
    page.fill("#prompt textarea", "a red circle")
    expect(page.locator("#tokens")).to_have_text("3/30 tokens")
    page.fill("#prompt textarea", "very " * 29 + "small blue <fish>")
    expect(page.locator("#tokens")).to_have_text("32/30 tokens: the model will not read “blue <fish>”")


def test_tokens_are_counted_in_the_order_of_the_changes_so_the_form_as_it_stands_is_shown_last(
    page: Page, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, counting, go = site.pipeline.tokens, threading.Event(), threading.Event()
    counted: list[str] = []

    async def tokens(text: str, *how: Any) -> Tokens:
        if text == "a star":
            counting.set()
            await asyncio.to_thread(go.wait, 10)
        counted.append(text)
        return await count(text, *how)

    monkeypatch.setattr(site.pipeline, "tokens", tokens)
    page.fill("#prompt textarea", "a star")
    assert counting.wait(10)
    page.click("#style input")
    page.get_by_role("option", name="Cartoon").click()
    expect(page.locator("#style")).to_contain_text("The model reads: …, cartoon")  # so the server knows of the style
    go.set()
    expect(page.locator("#tokens")).to_have_text("3/30 tokens")
    assert [text for text in counted if text] == ["a star", "a star, cartoon"]


def test_a_downloaded_picture_dropped_on_png_info_restores_its_settings(page: Page, site: Site, tmp_path: Path) -> None:
    page.fill("#prompt textarea", PROMPT)
    page.click("#advanced button")
    page.fill(f"#num_inference_steps {NUMBER}", "5")
    page.click("#generate")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    saved = tmp_path / "picture.png"
    download.value.save_as(saved)
    seed = page.input_value("#seed input")
    page.reload()
    page.wait_for_selector("button#generate:not(:disabled)")
    page.click("#png-info button")
    page.set_input_files("#picture input[type=file]", saved)
    expect(page.get_by_role("status").first).to_contain_text("Settings restored from the picture.")
    expect(page.locator("#prompt textarea")).to_have_value(PROMPT)
    page.click("#advanced button")
    expect(page.locator(f"#num_inference_steps {NUMBER}")).to_have_value("5")
    expect(page.locator("#seed input")).to_have_value(seed)
    expect(page.get_by_label("Randomize")).not_to_be_checked()
    page.click("#generate")
    expect(page.get_by_role("status").first).to_have_text("Done")
    first, again = site.pipeline.specs
    assert again == first  # so it is the same to the last bit


def test_a_seed_can_be_used_again(page: Page, site: Site) -> None:
    generate(page, PROMPT)
    page.get_by_role("button", name="Reuse seed").click()
    page.click("#advanced button")
    expect(page.get_by_label("Randomize")).not_to_be_checked()
    first = page.url
    page.click("#generate")
    page.wait_for_url(lambda url: url != first)  # it names the second job
    expect(page.get_by_role("status").first).to_have_text("Done")
    assert [spec.seed for spec in site.pipeline.specs] == [site.pipeline.specs[0].seed] * 2


def test_a_receipt_gives_code_for_programs(page: Page, site: Site) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    generate(page, PROMPT)
    page.locator("#receipt button").first.click()
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    code = page.evaluate("navigator.clipboard.readText()")
    assert f"{site.url}/v1/images/generations" in code
    assert PROMPT in code


def test_why_a_job_waits_can_be_read(page: Page, site: Site, profile: Profile) -> None:
    site.pipeline.go.clear()
    generate(opened(profile(), site.url), PROMPT)
    generate(page, PROMPT)
    page.locator("#why button").click()
    expect(page.locator("#why dl")).to_contain_text("1 picture of yours")
    expect(page.locator("#why dl")).to_contain_text("Denoiser replicas")


def test_everything_can_be_done_by_keyboard_alone(page: Page, site: Site) -> None:
    def walk_to(selector: str) -> None:
        for _ in range(60):
            if page.evaluate("s => document.activeElement?.matches(s)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    site.pipeline.go.clear()
    page.keyboard.type(PROMPT)
    walk_to("#generate")
    page.keyboard.press("Enter")
    expect(page.get_by_role("progressbar")).to_be_visible()
    walk_to("#cancel")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_have_text("Cancelled")
    site.pipeline.go.set()
    walk_to("#mine button")
    page.keyboard.press("Enter")
    walk_to(".jobs .recall")
    page.keyboard.press("Enter")
    walk_to("#advanced button")
    page.keyboard.press("Enter")
    walk_to(f"#num_inference_steps {NUMBER}")


LOOKS = list(product(["idle", "running", "done", "problem"], ["light", "dark", "phone"]))
EVERY_DAY = [("idle", "dark"), ("running", "phone"), ("done", "light"), ("problem", "phone")]


@pytest.mark.parametrize(
    ("state", "looks"), [pytest.param(*at, marks=() if at in EVERY_DAY else pytest.mark.nightly) for at in LOOKS]
)
def test_axe_finds_no_serious_violation(page: Page, site: Site, state: str, looks: str) -> None:
    page.emulate_media(color_scheme="dark" if looks == "dark" else "light", reduced_motion="reduce")
    if looks == "phone":
        page.set_viewport_size({"width": 390, "height": 844})
    if state == "running":
        site.pipeline.go.clear()
    if state != "idle":
        generate(page, "" if state == "problem" else PROMPT)
        words = {"running": "Denoising", "done": "Done", "problem": "Prompt must"}[state]
        expect(page.get_by_role("status").first).to_contain_text(words)
    for heading in ("Why am I waiting?", "Receipt", "My jobs", "Advanced", "PNG info"):
        if (button := page.get_by_role("button", name=heading)).is_visible():
            button.click()
    found = Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in serious]


def test_a_picture_takes_its_place_before_it_is_drawn(page: Page, site: Site) -> None:
    site.pipeline.go.clear()
    generate(page, PROMPT)
    expect(page.get_by_role("img", name="Preview of")).to_be_visible()
    before = page.locator(".tile").bounding_box()
    site.pipeline.go.set()
    expect(page.get_by_role("img", name=PROMPT, exact=True)).to_be_visible()
    after = page.locator(".tile img").bounding_box()
    assert before
    assert after
    assert (before["x"], before["y"], before["width"]) == (after["x"], after["y"], after["width"])


def test_on_a_phone_what_is_tapped_is_large_enough(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    generate(page, PROMPT)
    expect(page.get_by_role("status").first).to_have_text("Done")
    for heading in ("Receipt", "My jobs", "Advanced", "PNG info"):
        page.get_by_role("button", name=heading).click()
    small = page.evaluate(
        """[...document.querySelectorAll('#page button, #page a, #page input, #page textarea')]
            .filter((e) => e.checkVisibility() && !['range', 'checkbox', 'file'].includes(e.type))
            .filter((e) => e.getBoundingClientRect().height < 44)
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert small == [], small


def test_on_a_phone_slider_thumbs_and_arrows_of_closed_sections_are_whole(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("#advanced button")
    expect(page.locator(f"#clip_skip {NUMBER}")).to_be_visible()
    room = page.evaluate(
        """[...document.querySelectorAll('#page input[type=range]')]
            .filter((e) => e.checkVisibility())
            .map((slider) => {
            let clip = slider;
            while (getComputedStyle(clip).overflow === 'visible') clip = clip.parentElement;
            const [at, box] = [slider, clip].map((e) => e.getBoundingClientRect());
            return box.bottom - (at.top + at.bottom) / 2;
        })"""
    )
    assert min(room) >= 9, "half a thumb, with its border"
    beyond = page.evaluate(
        """[...document.querySelectorAll('#page .label-wrap:not(.open) .icon')].filter((e) => e.checkVisibility())
            .map((icon) => [icon, icon.parentElement].map((e) => e.getBoundingClientRect().right))
            .map(([icon, heading]) => icon - heading)"""
    )
    assert len(beyond) == 3
    assert max(beyond) <= 0


def test_a_hostile_prompt_stays_text(page: Page) -> None:
    generate(page, "<img src=x onerror=\"document.title='owned'\"> \u202e 猫 🐈")
    expect(page.get_by_role("status").first).to_have_text("Done")
    page.click("#mine button")
    expect(page.locator(".jobs .what").first).to_contain_text("<img src=x")
    assert page.title() == "Darkroom"


def test_a_swipe_that_begins_on_a_slider_scrolls_the_page_and_leaves_the_slider(site: Site, chromium: Browser) -> None:
    with chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as phone:
        page = opened(phone, site.url)
        page.click("#advanced button")
        slider = page.locator("#num_inference_steps input[type=range]")
        slider.scroll_into_view_if_needed()
        box, scrolled = slider.bounding_box(), page.evaluate("scrollY")
        assert box
        x, y = box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2
        finger = phone.new_cdp_session(page)
        for kind, down in (("touchStart", 0), *(("touchMove", 12 * k) for k in range(1, 11)), ("touchEnd", None)):
            points = [] if down is None else [{"x": x, "y": y + down}]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_function("before => scrollY < before - 50", arg=scrolled)
        expect(slider).to_have_value("8")
        expect(page.locator(f"#num_inference_steps {NUMBER}")).to_have_value("8")
        slider.tap(position={"x": 0.9 * box["width"], "y": box["height"] / 2})  # once it stands still
        expect(slider).to_have_value(re.compile("^9."))  # a tap does set it
        expect(page.locator(f"#num_inference_steps {NUMBER}")).to_have_value(re.compile("^9."))
