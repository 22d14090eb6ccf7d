"""The page in a real browser."""

import io
import re

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Site
from tests.unit.gradio_ingress.fakes import CARD

PROMPT = "a red circle on a blue background"
NUMBER = "[data-testid=number-input]"


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
    assert picture.info["parameters"] == PROMPT


def test_an_empty_prompt_is_refused_by_name(page: Page, site: Site) -> None:
    page.click("#generate")
    expect(page.get_by_role("status").first).to_contain_text("Prompt:")
    assert not site.pipeline.specs


def test_numbers_out_of_bounds_are_refused_and_not_corrected(page: Page, site: Site) -> None:
    page.fill("#prompt textarea", PROMPT)
    page.click("#advanced button")
    page.fill(f"#num_inference_steps {NUMBER}", "500")
    page.click("#generate")
    expect(page.get_by_role("status").first).to_contain_text(
        "Inference steps: input should be less than or equal to 150"
    )
    page.fill(f"#num_inference_steps {NUMBER}", "8")
    page.fill("#seed input", "-1")
    page.click("#generate")
    expect(page.get_by_role("status").first).to_contain_text("Seed: input should be greater than or equal to 0")
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


def test_who_waits_sees_their_place_in_line(page: Page, site: Site, chromium: Browser) -> None:
    site.pipeline.go.clear()
    page.fill("#prompt textarea", PROMPT)
    page.fill(f"#num_images {NUMBER}", "2")
    page.click("#generate")
    expect(page.get_by_role("progressbar")).to_be_visible()
    other = chromium.new_page()
    other.goto(site.url)
    other.wait_for_selector("button#generate:not(:disabled)")
    other.fill("#prompt textarea", PROMPT)
    other.click("#generate")
    expect(other.get_by_role("status").first).to_have_text("In line: 1st of 1")
    site.pipeline.go.set()
    expect(other.get_by_role("status").first).to_have_text("Done")
    other.close()


def test_an_example_fills_the_form_and_generates(page: Page, site: Site) -> None:
    example = CARD.examples[1]
    page.get_by_role("button", name=example["prompt"]).click()
    expect(page.get_by_role("status").first).to_have_text("Done")
    expect(page.locator("#prompt textarea")).to_have_value(example["prompt"])
    assert site.pipeline.specs[0].prompt == f"{example['prompt']}, cartoon"


def test_the_page_says_what_the_model_can_draw(page: Page) -> None:
    expect(page.locator("#notice")).to_have_text(CARD.notice)


def test_nothing_is_fetched_from_elsewhere(page: Page, site: Site) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_selector("button#generate:not(:disabled)")
    assert asked
    assert [url for url in asked if not url.startswith((site.url, "data:", "blob:"))] == []


def test_on_a_phone_the_page_is_one_column_without_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    compose, stage = page.locator("#compose").bounding_box(), page.locator("#stage").bounding_box()
    assert compose
    assert stage
    assert stage["y"] > compose["y"] + compose["height"] - 1
