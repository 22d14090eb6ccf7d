"""The vocabulary of CLIP, which the text encoders of Stable Diffusion read: OpenAI's, under MIT. No torch."""

import gzip
import json
from functools import cache
from pathlib import Path

MERGES = Path(__file__).parent / "merges.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
TOKENS = 49408


@cache
def vocabulary_files() -> dict[str, str]:
    """Return the contents of `vocab.json` and `merges.txt`.

    The vocabulary follows from the merges: the bytes, the bytes that end a word, what each merge makes, start and end.
    Source: Radford et al. 2021 (arXiv:2103.00020); OpenAI's `clip/simple_tokenizer.py`.
    """
    merges = gzip.decompress(MERGES.read_bytes()).decode()
    letters = _letters()
    merged = [line.replace(" ", "") for line in merges.splitlines()[1:]]
    words = [*letters, *(letter + END_OF_WORD for letter in letters), *merged, START, END]
    return {"vocab.json": json.dumps({word: number for number, word in enumerate(words)}), "merges.txt": merges}


def _letters() -> list[str]:
    """Return the character for each byte: printable ones mean themselves, the others follow after Latin-1."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(number) for number in (*printable, *range(256, 256 + others))]
