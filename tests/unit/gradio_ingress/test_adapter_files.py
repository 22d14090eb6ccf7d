"""The adapter files of a model, as the page shows them."""

from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from gradio_ingress import adapter_files, controls
from models.model_card import AdapterCard, EmbeddingCard
from models.prompt_grammar import Piece, escaped, parse
from tests.unit.gradio_ingress.fakes import CARD

CHALK = AdapterCard(name="chalk", title="On slate", base="sdxl", trigger_words=('a "dusty" star (old)', "slate"))
INK = AdapterCard(name="ink", title="ink", trigger_words=("wet",))
FOREIGN = AdapterCard(name="xl", trigger_words=("never",), problem="is for XL.")
EMBEDDINGS = (EmbeddingCard(name="blur", vectors=2), EmbeddingCard(name="bad", problem="is <broken>."))
FILES = replace(CARD, adapters=(CHALK, INK, FOREIGN), embeddings=EMBEDDINGS)


def test_the_words_of_chosen_loras_are_offered_as_the_syntax_of_the_prompt_has_them() -> None:
    plain = adapter_files.trigger_words(FILES, {"chalk", "xl", ""}, "plain")
    assert 'data-word="a &quot;dusty&quot; star (old)" data-field="prompt"' in plain
    assert ">slate</button>" in plain
    assert "wet" not in plain
    assert "never" not in plain
    assert r'star \(old\)" data-field' in adapter_files.trigger_words(FILES, {"chalk"}, "weighted")


def test_nothing_is_offered_of_a_lora_without_words() -> None:
    assert adapter_files.trigger_words(replace(FILES, adapters=(AdapterCard(name="a"),)), {"a"}, "plain") == ""


@pytest.mark.parametrize("word", ["<lora:evil:5>", "a BREAK b", "<ink>", "embedding:ink"])
def test_a_word_that_would_name_another_file_or_end_a_chunk_is_not_offered(word: str) -> None:
    hostile = replace(FILES, adapters=(AdapterCard(name="a", trigger_words=(word, "slate")),))
    shown = adapter_files.trigger_words(hostile, {"a"}, "weighted")
    assert shown.count("<button") == 1
    assert ">slate</button>" in shown


def test_an_embedding_is_offered_to_both_texts() -> None:
    shown = adapter_files.embeddings(FILES)
    for field in ("prompt", "negative_prompt"):
        assert f'data-word="&lt;blur&gt;" data-field="{field}">blur<' in shown
    assert "bad" not in shown
    assert adapter_files.embeddings(CARD) == ""


def test_files_that_cannot_be_used_are_counted_and_listed_with_their_reasons() -> None:
    files = adapter_files.unusable(FILES)
    assert files == [("xl", "is for XL."), ("bad", "is <broken>.")]
    assert adapter_files.title(files) == "2 files cannot be used"
    assert adapter_files.title(files[:1]) == "1 file cannot be used"


@pytest.mark.parametrize("text", ["star (old)", r"a [b] \ (c", "(a:1.2)", r"\(", "plain"])
def test_an_escaped_text_is_only_text(text: str) -> None:
    assert parse(escaped(text, "weighted")) == ((Piece(text, 1.0),),)
    assert escaped(text, "plain") == text


def test_a_lora_is_listed_with_what_its_file_says_and_files_that_cannot_be_used_are_not() -> None:
    choices: Any = controls.fit("loras", FILES)["loras[0].name"]["choices"]
    assert choices == [
        ("None", ""),
        ('chalk · On slate · sdxl · a "dusty" star (old), slate', "chalk"),
        ("ink · wet", "ink"),
    ]


def test_an_empty_folder_has_a_section_as_files_may_come() -> None:
    assert controls.section("loras", replace(CARD, adapters=()))["visible"]
    assert not controls.section("loras", CARD)["visible"]


def test_a_lora_takes_no_more_controls_than_its_values() -> None:
    with gr.Blocks():
        created = controls.create("loras")
    assert list(created) == [f"loras[{row}].{member}" for row in range(4) for member in ("name", "weight")]
