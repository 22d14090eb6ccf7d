"""Weights, breaks and embeddings in a prompt, as AUTOMATIC1111's web UI and ComfyUI have them. No torch.

`(text)` weighs 1.1 times as much and `[text]` 1.1 times less, `(text:1.2)` 1.2 times; brackets multiply where they
are nested. A backslash before `(`, `)`, `[`, `]` or a backslash takes its meaning away. `BREAK` ends a section, inside
brackets too. A bracket that is never closed reaches to the end of the prompt; one that was never opened is text.

In any prompt, `<name>` and `embedding:name` are the embedding of that name.

Source: "Attention/emphasis" and "Infinite prompt length" in AUTOMATIC1111's wiki; "Textual inversion" in ComfyUI's
examples.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from models.parameters import PromptSyntax

EMPHASIS = 1.1  # of a pair of brackets without a number
# Linear in a prompt's length: what may repeat never overlaps with what follows it.
LEXEME = re.compile(r"\\[\\()\[\]]|[()\[\]]|:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|[^\\()\[\]:]+|[\\:]", re.ASCII)
NAME = r"\w+(?:[.+-]+\w+)*"  # of an embedding: a dot or bracket after it is not its own
MAX_NAME = 100  # characters
EMBEDDING = re.compile(rf"<({NAME})>|(?<!\w)embedding:({NAME})")
TAG = re.compile(r"<[^<>]*>")
BREAK = re.compile(r"\bBREAK\b")
CLOSED_BY = {")": "(", "]": "["}
FACTORS = {"(": EMPHASIS, "[": 1 / EMPHASIS}


class Piece(NamedTuple):
    """Text of one weight."""

    text: str
    weight: float


Section = tuple[Piece, ...]  # what stands between two breaks


class Reference(NamedTuple):
    """An embedding that a prompt may name."""

    name: str
    in_angles: bool  # written as <name>, which other text may be, too


def is_embedding_name(name: str) -> bool:
    """Return whether prompts can name an embedding of this name."""
    return len(name) <= MAX_NAME and re.fullmatch(NAME, name) is not None


def names_something(text: str) -> bool:
    """Whether a text may name an adapter or end a section, which no escape prevents."""
    return any(pattern.search(text) for pattern in (TAG, EMBEDDING, BREAK))


def escaped(text: str, syntax: PromptSyntax) -> str:
    """Return a prompt of a syntax in which the brackets and backslashes of a text are only text."""
    return re.sub(r"[\\()\[\]]", r"\\\g<0>", text) if syntax == "weighted" else text


def references(prompt: str, syntax: PromptSyntax) -> list[Reference]:
    """Return what a prompt may name as embeddings, in the order of the text."""
    return [
        Reference(found[1] or found[2], found[1] is not None)
        for section in sections(prompt, syntax)
        for piece in section
        for found in EMBEDDING.finditer(piece.text)
    ]


def with_embedding_names(prompt: str, names: Mapping[str, str]) -> str:
    """Return a prompt that calls embeddings by other names: old -> new."""

    def renamed(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in names:
            return found[0]
        return f"<{names[name]}>" if found[1] else f"embedding:{names[name]}"

    return EMBEDDING.sub(renamed, prompt)


def split_at_embeddings(text: str, names: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the parts of a piece of text, each with the name of the embedding that it is: one of `names`, or None."""
    end = 0
    for found in EMBEDDING.finditer(text):
        name = found[1] or found[2]
        if name in names:
            yield text[end : found.start()], None
            yield found[0], name
            end = found.end()
    yield text[end:], None


def sections(prompt: str, syntax: PromptSyntax) -> tuple[Section, ...]:
    """Return the sections of a prompt, at least one. A plain prompt is a single piece."""
    return parse(prompt) if syntax == "weighted" else ((Piece(prompt, 1.0),),)


def parse(prompt: str) -> tuple[Section, ...]:
    """Return the sections of a weighted prompt, at least one; neighbouring pieces have different weights."""
    lexemes = list(LEXEME.finditer(prompt))
    factors, closed = _match_brackets(lexemes)
    weights = {kind: [1.0] for kind in FACTORS}  # of the brackets that are open, multiplied
    sections: list[list[Piece]] = [[]]
    for number, lexeme in enumerate(lexemes):
        kind = closed.get(number)
        if number in factors:
            opened = weights[lexeme[0]]
            opened.append(opened[-1] * factors[number])
        elif kind is not None:
            weights[kind].pop()
        else:
            _add_text(sections, lexeme[0], weights["("][-1] * weights["["][-1])
    return tuple(map(_joined, sections))


def _match_brackets(lexemes: list[re.Match[str]]) -> tuple[dict[int, float], dict[int, str]]:
    """Return the factor of each lexeme that opens a bracket, and what each that closes one closes; by their numbers."""
    factors: dict[int, float] = {}
    closed: dict[int, str] = {}
    opened: dict[str, list[int]] = {kind: [] for kind in FACTORS}
    for number, lexeme in enumerate(lexemes):
        text, weight = lexeme[0], lexeme[1]
        kind = CLOSED_BY.get(text if weight is None else ")")
        if text in FACTORS:
            opened[text].append(number)
            factors[number] = FACTORS[text]
        elif kind is not None and opened[kind]:
            opener = opened[kind].pop()
            closed[number] = kind
            factors[opener] = FACTORS[kind] if weight is None else float(weight)
    return factors, closed


def _add_text(sections: list[list[Piece]], lexeme: str, weight: float) -> None:
    """Add text to the last section; each break in it begins another one."""
    if len(lexeme) == 2 and lexeme[0] == "\\":
        lexeme = lexeme[1]
    for number, text in enumerate(BREAK.split(lexeme)):
        if number:
            sections.append([])
        if text:
            sections[-1].append(Piece(text, weight))


def _joined(section: list[Piece]) -> Section:
    """Return a section whose neighbours of the same weight are one piece."""
    runs = groupby(section, key=attrgetter("weight"))
    return tuple(Piece("".join(piece.text for piece in run), weight) for weight, run in runs)
