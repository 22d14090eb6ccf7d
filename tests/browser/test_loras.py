"""LoRAs, in a real browser."""

from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from models.model_card import AdapterCard
from models.spec import Lora
from tests.browser.conftest import Site
from tests.chromium import generate
from tests.unit.gradio_ingress.fakes import CARD

ADAPTERS = (
    AdapterCard(name="chalk", sha256="c" * 64, rank=8, trigger_words=("blackboard",)),
    AdapterCard(name="embroidery", sha256="d" * 64, rank=8),
    AdapterCard(name="foreign", problem="is for models that attend to text of width 2048, not 128."),
)
NAME, WEIGHT = "#loras-0-name input", "#loras-0-weight input[type=number]"


@pytest.mark.parametrize("site", [replace(CARD, adapters=ADAPTERS)], indirect=True)
def test_a_lora_is_found_by_its_words_weighed_and_kept_over_a_reload(page: Page, site: Site) -> None:
    page.click("#section-loras button.label-wrap")
    page.fill(NAME, "")
    page.locator(NAME).press_sequentially("board")
    expect(page.get_by_role("option")).to_have_count(1)
    page.get_by_role("option", name="chalk").click()
    page.fill(WEIGHT, "0.5")
    page.press(WEIGHT, "Tab")
    generate(page, "a red circle")
    expect(page.locator("#status .status[data-state=succeeded]")).to_be_visible()
    page.reload()
    page.wait_for_selector("button#generate:not(:disabled)")
    page.click("#generate")
    expect(page.locator("#status .status[data-state=succeeded]")).to_be_visible()
    first, second = site.pipeline.specs
    assert first.loras == second.loras == (Lora(name="chalk", weight=0.5, sha256="c" * 64),)


def test_a_model_without_loras_has_no_section_for_them(page: Page, site: Site) -> None:
    expect(page.locator("#section-hires, #section-init")).not_to_have_count(0)
    expect(page.locator("#section-loras")).to_be_hidden()
