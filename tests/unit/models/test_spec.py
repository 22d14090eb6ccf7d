"""What every process knows of the models."""

from dataclasses import replace

import pytest

from models.model_card import find_card
from tests.unit.gradio_ingress.fakes import CARD

CARDS = [CARD, replace(CARD, id="other", aliases=("dall-e-3", "gpt-image-1"))]


@pytest.mark.parametrize(
    ("name", "model"),
    [("shapes", "shapes"), ("other", "other"), ("gpt-image-1", "other"), (None, "shapes"), ("unknown", None)],
)
def test_a_card_is_found_by_its_id_or_an_alias(name: str | None, model: str | None) -> None:
    card = find_card(CARDS, name)
    assert (card and card.id) == model


def test_no_card_is_found_while_no_model_is_up() -> None:
    assert find_card([], None) is None
