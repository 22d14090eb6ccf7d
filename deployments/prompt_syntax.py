"""Syntax of other tools in a prompt. The text encoder reads it as plain text, which its author should know."""

import re

MAX_QUOTED = 60  # characters
# Linear in a prompt's length: what may repeat never overlaps with what follows it.
SYNTAX = {  # what it means elsewhere -> how it is written
    "weights of words": re.compile(  # (a:1.2), (a:2), ((a)); neither (16:9) nor (at 10:30)
        r"\([^():]*:\s*[0-9]{0,2}\.[0-9]+\s*\)|\([^():]*[^():0-9\s]\s*:\s*[0-9]{1,2}\s*\)|\(\([^()]*\)\)"
    ),
    "alternating and scheduled words": re.compile(r"\[[^\[\]|:]*[|:][^\[\]]*\]"),  # [a|b], [a:b:0.5]
    "adapters that a prompt names": re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>"),
    "breaks between chunks": re.compile(r"\bBREAK\b"),
}


def unread_syntax(text: str) -> list[str]:
    """Return the first piece of each kind of syntax in a text, in words that quote it."""
    found = [(meaning, match[0]) for meaning, pattern in SYNTAX.items() if (match := pattern.search(text))]
    return [f"“{_shortened(piece)}” is read as plain text: {meaning} are not supported." for meaning, piece in found]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…"
