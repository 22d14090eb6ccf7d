"""Names that are near a misspelt one. The cost is linear in the names, and small for each of them."""

from collections.abc import Iterable
from difflib import get_close_matches
from heapq import nlargest

MAX_NAME = 100  # characters that are compared
MAX_COMPARED = 50  # names that are compared character by character
LEAST_RATIO = 0.5  # of what two names share: beyond three times the length of a name there is no such ratio


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three of `names`, the nearest first, if they are like `name`.

    difflib would take up to 0.6 s for 5,000 names, so it gets those alone that share the most pairs of neighbouring
    characters.
    """
    name = name[:MAX_NAME]
    pairs, length = _pairs(name), len(name)
    possible = (other for other in names if max(length, len(other)) <= 3 * min(length, len(other)))  # see LEAST_RATIO

    def shared(other: str) -> float:
        return sum(map(f" {other} ".__contains__, pairs)) / (length + len(other))

    return get_close_matches(name, nlargest(MAX_COMPARED, possible, key=shared), cutoff=LEAST_RATIO)


def _pairs(name: str) -> set[str]:
    padded = f" {name} "
    return {padded[k : k + 2] for k in range(len(padded) - 1)}
