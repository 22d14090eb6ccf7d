"""What brackets, escapes and breaks of a prompt mean."""

import time
from typing import Any

import pytest

from deployments.schema import MAX_PROMPT
from models.prompt_grammar import parse

LESS = pytest.approx(1 / 1.1)
TWICE = pytest.approx(1.21)

CASES: list[tuple[str, list[list[tuple[str, Any]]]]] = [
    ("", [[]]),
    ("a red circle", [[("a red circle", 1)]]),
    ("a (red) circle", [[("a ", 1), ("red", 1.1), (" circle", 1)]]),
    ("a [red] circle", [[("a ", 1), ("red", LESS), (" circle", 1)]]),
    ("a (red:1.5) circle", [[("a ", 1), ("red", 1.5), (" circle", 1)]]),
    ("a (red : 2 ) circle", [[("a ", 1), ("red ", 2), (" circle", 1)]]),
    ("(red:.5)", [[("red", 0.5)]]),
    ("(red:-1)", [[("red", -1)]]),
    ("(red:+1.25)", [[("red", 1.25)]]),
    ("(red:0)", [[("red", 0)]]),
    # nested
    ("((red))", [[("red", TWICE)]]),
    ("[[red]]", [[("red", pytest.approx(1 / 1.21))]]),
    ("((a) b:1.5)", [[("a", pytest.approx(1.65)), (" b", 1.5)]]),
    ("(a (b:1.2) c:1.5)", [[("a ", 1.5), ("b", pytest.approx(1.8)), (" c", 1.5)]]),
    ("([red])", [[("red", pytest.approx(1))]]),
    ("(a [b) c]", [[("a ", 1.1), ("b", pytest.approx(1)), (" c", LESS)]]),
    # neighbours of one weight are one piece
    ("a (red:1.0) circle", [[("a red circle", 1)]]),
    ("(a)(b)", [[("ab", 1.1)]]),
    ("a () b", [[("a  b", 1)]]),
    # escapes
    (r"a \(red\) circle", [[("a (red) circle", 1)]]),
    (r"\[a\] \\", [[("[a] \\", 1)]]),
    (r"(\(a\):1.3)", [[("(a)", 1.3)]]),
    (r"a\b", [[("a\\b", 1)]]),
    (r"\\(a)", [[("\\", 1), ("a", 1.1)]]),
    # brackets without a partner
    ("a (red", [[("a ", 1), ("red", 1.1)]]),
    ("((a", [[("a", TWICE)]]),
    ("a [red", [[("a ", 1), ("red", LESS)]]),
    ("((a) b", [[("a", TWICE), (" b", 1.1)]]),
    ("a) b", [[("a) b", 1)]]),
    ("a] b", [[("a] b", 1)]]),
    ("a:1.2) b", [[("a:1.2) b", 1)]]),
    # colons that are no weights
    ("at 10:30", [[("at 10:30", 1)]]),
    ("(a:b)", [[("a:b", 1.1)]]),
    ("(a:1.2.3)", [[("a:1.2.3", 1.1)]]),
    ("[a:1.2]", [[("a:1.2", LESS)]]),
    ("(a:²)", [[("a:²", 1.1)]]),
    # sections
    ("a BREAK b", [[("a ", 1)], [(" b", 1)]]),
    ("a BREAK BREAK b", [[("a ", 1)], [(" ", 1)], [(" b", 1)]]),
    ("BREAK", [[], []]),
    ("(a BREAK b:1.2) c", [[("a ", 1.2)], [(" b", 1.2), (" c", 1)]]),
    ("BREAKFAST, break", [[("BREAKFAST, break", 1)]]),
]


@pytest.mark.parametrize(("prompt", "sections"), CASES)
def test_a_prompt_has_these_pieces_and_weights(prompt: str, sections: list[list[tuple[str, Any]]]) -> None:
    assert [[tuple(piece) for piece in section] for section in parse(prompt)] == sections


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("piece", ["(", "(a", "[a", "(a:", "(a: ", "(a:1", "\\", "BREAK ", ":1.", " ", "a)", "(a [b) "])
def test_no_prompt_takes_longer_than_its_length_warrants(piece: str) -> None:
    start = time.thread_time()
    parse(piece * (5 * MAX_PROMPT // len(piece)))
    assert time.thread_time() - start < 1
