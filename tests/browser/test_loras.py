"""LoRAs and embeddings, in a real browser."""

import asyncio
import time
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from models.model_card import AdapterCard, EmbeddingCard
from models.spec import Embedding, Lora
from tests.browser.conftest import Site
from tests.unit.gradio_ingress.fakes import CARD

CHALK = AdapterCard(
    name="chalk",
    sha256="c" * 64,
    rank=8,
    title="Chalk on slate",
    base="sdxl",
    trigger_words=("blackboard", "a (dusty) star"),
)
FOREIGN = AdapterCard(name="foreign", problem="is for models that attend to text of width 2048, not 128.")
ADAPTERS = (CHALK, *(AdapterCard(name=f"style-{k:03}", sha256="d" * 64, rank=8) for k in range(200)), FOREIGN)
WITH_ADAPTERS = replace(CARD, adapters=ADAPTERS, embeddings=(EmbeddingCard(name="blur", sha256="e" * 64, vectors=2),))
NAME, WEIGHT = "#loras-0-name input", "#loras-0-weight input[type=number]"
SECTION, UNUSABLE = "#section-loras button.label-wrap", "#unusable button.label-wrap"


def serve(site: Site, name: str) -> None:
    """Wait until a LoRA is served."""
    while True:
        asked = asyncio.run_coroutine_threadsafe(site.cluster.client.models(), site.loop)
        if name in [adapter.name for adapter in asked.result(timeout=10)[0].adapters or ()]:
            return
        time.sleep(0.05)


@pytest.mark.parametrize("site", [WITH_ADAPTERS], indirect=True)
def test_a_lora_is_found_weighed_and_said_with_its_words(
    page: Page, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.click(SECTION)
    page.fill(NAME, "")
    page.locator(NAME).press_sequentially("on slate")
    expect(page.get_by_role("option")).to_have_count(1)
    page.get_by_role("option", name="chalk").click()
    page.fill(WEIGHT, "0.5")
    page.press(WEIGHT, "Tab")

    page.fill("#prompt textarea", "a red circle,")
    words = page.get_by_role("group", name="Words of chalk")
    for _ in range(2):  # the second adds nothing
        words.get_by_role("button", name="blackboard").press("Enter")
        words.get_by_role("button", name="a (dusty) star").click()
    expect(page.locator("#prompt textarea")).to_have_value("a red circle, blackboard, a (dusty) star")
    expect(page.locator("#tokens")).to_have_text("7/30 tokens")
    page.click("#embeddings button.label-wrap")
    page.get_by_role("group", name="Add to the negative prompt").get_by_role("button", name="blur").click()
    expect(page.locator("#negative_prompt textarea")).to_have_value("<blur>")

    expect(page.locator(UNUSABLE)).to_contain_text("1 file cannot be used")
    broken = AdapterCard(name="broken", problem="is not a safetensors file.")
    later = AdapterCard(name="ink", sha256="a" * 64, rank=8)
    monkeypatch.setattr(site.pipeline, "_card", replace(WITH_ADAPTERS, adapters=(*ADAPTERS, broken, later)))
    serve(site, later.name)
    page.click(UNUSABLE)
    expect(page.locator("#unusable dl")).to_contain_text("width 2048")
    expect(page.locator("#unusable dl")).to_contain_text("is not a safetensors file.")
    expect(page.locator(UNUSABLE)).to_contain_text("2 files cannot be used")
    page.fill("#loras-1-name input", "")
    page.locator("#loras-1-name input").press_sequentially("ink")
    page.get_by_role("option", name="ink").click()

    page.click("#generate")
    expect(page.locator("#status .status[data-state=succeeded]")).to_be_visible()
    page.reload()
    page.wait_for_selector("button#generate:not(:disabled)")
    page.locator("#section-loras").get_by_role("button", name="Remove").nth(1).click()
    of_first = page.url
    page.click("#generate")
    page.wait_for_url(lambda address: address != of_first)
    expect(page.locator("#status .status[data-state=succeeded]")).to_be_visible()
    first, second = site.pipeline.specs
    chalk = Lora(name="chalk", weight=0.5, sha256="c" * 64, changes_text=False)
    assert first.loras == (chalk, Lora(name="ink", weight=1.0, sha256="a" * 64, changes_text=False))
    assert second.loras == (chalk,)
    assert first.embeddings == (Embedding(name="blur", sha256="e" * 64),)


def test_a_model_without_loras_has_no_section_for_them(page: Page, site: Site) -> None:
    expect(page.locator("#section-hires, #section-init")).not_to_have_count(0)
    expect(page.locator("#section-loras, #embeddings, #unusable")).to_have_count(0)
