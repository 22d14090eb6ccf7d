"""The presets' words."""

from typing import get_args

import pytest

from deployments.styles import STYLES, StyleName, apply


def test_every_style_that_can_be_named_has_words() -> None:
    assert tuple(STYLES) == get_args(StyleName)


def test_no_two_styles_look_the_same_in_a_list() -> None:
    assert len({style.label for style in STYLES.values()}) == len(STYLES)


@pytest.mark.parametrize("name", STYLES)
def test_a_style_adds_words_around_the_whole_prompt(name: StyleName) -> None:
    prompt, negative_prompt = apply(name, "a {cat}", "a dog")
    assert prompt != "a {cat}"
    assert "a {cat}" in prompt
    assert negative_prompt.startswith("a dog")
