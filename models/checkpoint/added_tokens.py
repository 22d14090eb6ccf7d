"""The words that were added to a tokenizer's vocabulary, as its files have them. No torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.checkpoint.configs import LARGEST_WORDS, read_json

LISTS = {  # file -> its entries of added tokens
    "tokenizer_config.json": ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"),
    "special_tokens_map.json": ("additional_special_tokens",),
    "tokenizer.json": ("added_tokens",),
}


def added_tokens(folder: Path, tokenizer: str) -> tuple[str, ...]:
    """Return the added tokens of a tokenizer in a subfolder, sorted. Raises UnusableCheckpoint."""
    return tuple(sorted(set(_tokens(folder, tokenizer))))


def _tokens(folder: Path, tokenizer: str) -> Iterator[str]:
    for name, entries in LISTS.items():
        if (folder / tokenizer / name).exists():
            content = read_json(folder, f"{tokenizer}/{name}", LARGEST_WORDS)
            for entry in entries:
                yield from _texts(content.get(entry))
    if (folder / tokenizer / "added_tokens.json").exists():
        yield from read_json(folder, f"{tokenizer}/added_tokens.json", LARGEST_WORDS)  # token -> id


def _texts(tokens: Any) -> Iterator[str]:
    """Yield the texts of tokens that are in a list, or by their ids, as texts or as objects."""
    for token in tokens.values() if isinstance(tokens, dict) else tokens if isinstance(tokens, list) else ():
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            yield text
