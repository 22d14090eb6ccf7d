"""What a caller is warned of when a request is accepted."""

import time
from dataclasses import replace
from typing import Any

import pytest

from deployments.prompt_syntax import MAX_QUOTED, unread_syntax
from deployments.request_warnings import request_warnings
from deployments.resolution import resolve
from deployments.schema import MAX_PROMPT, GenerationRequest
from tests.fakes import CARD


def warned(card: Any = CARD, **fields: Any) -> list[str]:
    request = GenerationRequest(**{"prompt": "a circle"} | fields)
    return list(request_warnings(request, resolve(request, card)[0], card))


@pytest.mark.parametrize(
    ("text", "quoted", "meaning"),
    [
        ("a (red:1.2) circle", "(red:1.2)", "weights of words"),
        ("a (red : 2) circle", "(red : 2)", "weights of words"),
        ("a (1990s:1.1) car", "(1990s:1.1)", "weights of words"),
        ("room (101:1.25)", "(101:1.25)", "weights of words"),
        ("a ((red)) circle", "((red))", "weights of words"),
        ("(masterpiece, best quality: .8), a circle", "(masterpiece, best quality: .8)", "weights of words"),
        ("a circle <lora:ink:0.8>", "<lora:ink:0.8>", "LoRAs that a prompt names"),
        ("a circle BREAK a star", "BREAK", "breaks between chunks"),
    ],
)
def test_weighted_syntax_in_a_plain_text_is_quoted_with_the_way_to_switch_it_on(
    text: str, quoted: str, meaning: str
) -> None:
    warning = f"“{quoted}” is read as plain text; set prompt_syntax to weighted for {meaning}."
    assert unread_syntax(text) == [warning]
    assert unread_syntax(text, "weighted") == []
    assert warned(prompt=text) == [f"prompt: {warning}"]
    assert warned(negative_prompt=text) == [f"negative_prompt: {warning}"]


@pytest.mark.parametrize("syntax", ["plain", "weighted"])
@pytest.mark.parametrize(
    ("text", "quoted", "meaning"),
    [
        ("a [red|blue] circle", "[red|blue]", "alternating and scheduled words"),
        ("a [red:blue:0.5] circle", "[red:blue:0.5]", "alternating and scheduled words"),
        ("a circle <lyco:ink:0.8>", "<lyco:ink:0.8>", "adapters of these kinds"),
    ],
)
def test_syntax_that_is_never_read_is_quoted_in_each_text(text: str, quoted: str, meaning: str, syntax: Any) -> None:
    warning = f"“{quoted}”: {meaning} are not supported."
    assert unread_syntax(text, syntax) == [warning]
    assert warned(prompt=text, prompt_syntax=syntax) == [f"prompt: {warning}"]
    assert warned(negative_prompt=text, prompt_syntax=syntax) == [f"negative_prompt: {warning}"]


@pytest.mark.parametrize("syntax", ["plain", "weighted"])
def test_prompts_joined_by_and_are_not_supported_and_in_a_negative_prompt_it_is_a_word_elsewhere_too(
    syntax: Any,
) -> None:
    warning = "“AND”: several prompts in one, joined by AND, are not supported."
    assert warned(prompt="a circle AND a star :1.2", prompt_syntax=syntax) == [f"prompt: {warning}"]
    assert warned(negative_prompt="a circle AND a star", prompt_syntax=syntax) == []
    for text in ("a circle and a star", "BRAND", "AND_1", "SANDAL"):
        assert unread_syntax(text, syntax) == []


UNKNOWN_TAG = "is no tag that is known; a LoRA is named as <lora:name:weight>, in lower case."
OPEN_TAG = "is a tag that is not closed; a LoRA is named as <lora:name:weight>, in lower case."
NO_EMBEDDING = "names no embedding; write embedding:name, and (embedding:name:1.2) for a weight."


@pytest.mark.parametrize("syntax", ["plain", "weighted"])
@pytest.mark.parametrize(
    ("text", "quoted", "reason"),
    [
        ("a circle <LORA:chalk:1>", "<LORA:chalk:1>", UNKNOWN_TAG),
        ("a circle <lore:chalk:1>", "<lore:chalk:1>", UNKNOWN_TAG),
        ("a circle < lora:chalk:1>", "< lora:chalk:1>", UNKNOWN_TAG),
        ("a circle <lora :chalk:1>", "<lora :chalk:1>", UNKNOWN_TAG),
        ("a circle <Hypernet:chalk>", "<Hypernet:chalk>", UNKNOWN_TAG),
        ("a circle <ink:1.2>", "<ink:1.2>", UNKNOWN_TAG),
        ("a circle <lora:chalk", "<lora:chalk", OPEN_TAG),
        ("<LoRA:chalk:0.8 <b> a circle", "<LoRA:chalk:0.8", OPEN_TAG),
        ("<lyco:chalk:0.8, a circle", "<lyco:chalk:0.8, a circle", OPEN_TAG),
        ("a embedding:(ink) circle", "embedding:(ink)", NO_EMBEDDING),
        ("embedding:[ink]", "embedding:[ink]", NO_EMBEDDING),
        ("embedding:((ink))", "embedding:((ink))", NO_EMBEDDING),
    ],
)
def test_a_tag_or_an_embedding_that_is_written_in_another_way_is_quoted_with_the_right_one(
    text: str, quoted: str, reason: str, syntax: Any
) -> None:
    assert f"“{quoted}” {reason}" in unread_syntax(text, syntax)
    for field in ("prompt", "negative_prompt"):
        assert f"{field}: “{quoted}” {reason}" in warned(**{field: text, "prompt_syntax": syntax})


def test_an_embedding_beside_its_weight_is_warned_of_once_under_weighted_syntax() -> None:
    assert unread_syntax("embedding:(ink:1.2)", "weighted") == [f"“embedding:(ink:1.2)” {NO_EMBEDDING}"]


@pytest.mark.parametrize(
    "text",
    ["<lora", "a < b", "lora:chalk", "<embedding:ink>", "<ink>", "embedding: (ink)", "a:b <3", "myembedding:(a"],
)
def test_what_only_looks_like_a_tag_gives_no_warning(text: str) -> None:
    assert unread_syntax(text, "weighted") == []


def test_a_weighted_prompt_with_what_it_reads_gives_no_warning() -> None:
    assert warned(prompt="a (red:1.2) circle BREAK", prompt_syntax="weighted") == []


@pytest.mark.parametrize(
    "text",
    [
        *("a circle (red)", "a [red] circle", "breaking news", "a <b> c", "at 10:30, 16:9", "smile :) (:", "{a} <x>"),
        *(
            "a poster (16:9)",
            "wide (2.39 : 1)",
            "a clock (at 10:30)",
            "a verse (John 3:16)",
            "a film (Blade Runner:2049)",
        ),
        *("an address (localhost:8000)", "a version (node:22.11.0)"),
    ],
)
def test_words_that_mean_nothing_elsewhere_give_no_warning(text: str) -> None:
    assert unread_syntax(text) == []


def test_several_kinds_give_a_warning_each_and_a_kind_gives_one() -> None:
    assert len(unread_syntax("(a:1.2) (b:1.3) <lora:x:1> BREAK [a|b]")) == 4


def test_a_long_piece_is_quoted_in_part() -> None:
    [warning] = unread_syntax(f"({'a' * 300}:1.2)")
    assert f"“({'a' * (MAX_QUOTED - 1)}…”" in warning


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "((",
        "(a:",
        "(a: ",
        "(:1",
        "[",
        "[a|",
        "[a:",
        "<lora:",
        "(:",
        ":",
        "(a:1.1.1 ",
        "(a    ",
        "(1 1 ",
        "(a :1 ",
        "(embedding:",
        "[embedding:",
        "embedding:a",
        "<a.",
        "embedding:a.",
        "<lora:a",
        "<a ",
        "< a",
        "embedding:((",
        "embedding:(a",
        "<a:",
    ],
)
def test_no_prompt_takes_longer_than_its_length_warrants(piece: str) -> None:
    start = time.thread_time()
    unread_syntax(piece * (MAX_PROMPT * 25 // len(piece)))
    assert time.thread_time() - start < 0.5


def test_a_negative_prompt_without_guidance_gives_a_warning() -> None:
    assert warned(negative_prompt="red", guidance_scale=1) == [
        "negative_prompt has no effect at guidance_scale 1; set guidance_scale above 1."
    ]
    assert warned(negative_prompt="red", guidance_scale=1.5) == []
    assert warned(negative_prompt="", guidance_scale=0) == warned(guidance_scale=0) == []


def test_a_negative_prompt_gives_a_warning_with_a_model_that_reads_none() -> None:
    distilled = replace(CARD, embedded_guidance=True)
    assert warned(distilled, negative_prompt="red") == ["negative_prompt has no effect with this model."]


def test_a_negative_prompt_of_the_model_or_of_a_style_gives_none() -> None:
    card = replace(CARD, styles=(), defaults=CARD.defaults | {"negative_prompt": "blurry", "guidance_scale": 0.0})
    assert warned(card) == warned(card, style="photograph") == []


def test_too_few_steps_are_among_the_warnings() -> None:
    [warning] = warned(sampler="euler", num_inference_steps=2)
    assert warning.startswith("num_inference_steps: euler needs 3 or more")
