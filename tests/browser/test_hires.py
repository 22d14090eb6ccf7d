"""The second pass at a higher resolution, in a real browser."""

from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site
from tests.chromium import generate
from tests.unit.gradio_ingress.fakes import CARD

WIDE = replace(CARD, bounds=dict(CARD.bounds) | {"width": (64, 256), "height": (64, 256)})
PROMPT = "a red circle on a blue background"
SCALE = "#hires-scale input"


@pytest.mark.parametrize("site", [WIDE], indirect=True)
def test_a_second_pass_is_switched_on_kept_over_a_reload_and_refused_beyond_the_models_size(
    page: Page, site: Site
) -> None:
    page.click("#section-hires button.label-wrap")
    page.get_by_role("checkbox", name="Second pass").check()
    expect(page.locator(SCALE)).to_have_value("2")
    page.fill(SCALE, "9")
    generate(page, PROMPT)
    expect(page.locator("#hires-scale .field-error")).to_contain_text("must be 4 or less, got 9")
    page.fill(SCALE, "3")
    expect(page.locator("#message .status")).to_have_count(0)
    page.reload()
    page.wait_for_selector("button#generate:not(:disabled)")
    page.click("#generate")
    expect(page.locator("#status .status[data-state=succeeded]")).to_be_visible()
    [spec] = site.pipeline.specs
    assert spec.hires is not None
    assert (spec.hires.scale, spec.hires.width, spec.hires.strength) == (3, 192, 0.7)
