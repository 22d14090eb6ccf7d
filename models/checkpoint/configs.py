"""The JSON files of a checkpoint. No torch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from models.errors import UnusableCheckpoint

LARGEST_JSON = 2**20  # bytes, of a config
LARGEST_WORDS = 2**23  # bytes, of a file of a tokenizer's words; CLIP's have up to 2.2 MB
MAX_DEPTH = 16  # of lists and objects in each other

Entry = TypeVar("Entry")


def read_json(folder: Path, name: str, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Return a JSON object of the checkpoint.

    Raises:
        UnusableCheckpoint: missing, larger than `largest` bytes, or not a JSON object; names the file.
    """
    path = folder / name
    try:
        check_file(path, largest)
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_infinite)
    except FileNotFoundError as error:
        raise UnusableCheckpoint(f"{path}: missing.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableCheckpoint(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnusableCheckpoint(f"{path}: not a JSON object.")
    return content


def check_file(path: Path, largest: int | None) -> None:
    """Check that a file can be read to its end: a device or a pipe may have none.

    Raises:
        OSError: it is no file, missing, or larger than `largest` bytes.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise OSError("not a file")
    if largest is not None and size > largest:
        raise OSError(f"more than {largest} bytes; no such file is so large")


def _infinite(name: str) -> float:
    """Return the number that JSON of Python may have beyond JSON's own."""
    if name == "NaN":
        raise ValueError("NaN is no number.")
    return float(name)


def read_entry(folder: Path, name: str, key: str, kind: type[Entry]) -> Entry:
    """Return one entry of a JSON object of the checkpoint.

    Raises:
        UnusableCheckpoint: the file is missing or broken, or has no such entry of this kind; names the file.
    """
    value = read_json(folder, name).get(key)
    if not isinstance(value, kind):
        raise UnusableCheckpoint(f"{folder / name}: has no {key}, or one that is no {kind.__name__}.")
    return value


def entries_of(path: Path, content: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield name, key and value of each entry, those inside others too: `text_config.hidden_size`."""
    waiting = [("", "", content, 0)]
    while waiting:
        name, key, value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise UnusableCheckpoint(f"{path}: {name} has more than {MAX_DEPTH} lists or objects in each other.")
        if depth:
            yield name, key, value
        if isinstance(value, dict):
            waiting += reversed([(entry_name(name, inner), inner, item, depth + 1) for inner, item in value.items()])
        elif isinstance(value, list):
            waiting += reversed([(name, key, item, depth + 1) for item in value])


def entry_name(outer: str, key: str) -> str:
    """Return the name of an entry, short and printable whatever its key is."""
    short = key[:60] if key[:60].isprintable() else ascii(key[:60])
    return f"{outer}.{short}"[:100] if outer else short


def shortened(value: Any) -> str:
    """Return a value as a message may show it."""
    return repr(value)[:100]


def one_line(text: str) -> str:
    """Return a text of a file as one short printable line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:200]).split())[:100]


def leaves(path: Path, value: Any) -> list[Any]:
    """Return what an entry holds in the end, lists and objects in each other as one."""
    return [inner for _, _, inner in entries_of(path, [value]) if not isinstance(inner, list | dict)]


def check_count(path: Path, name: str, count: int, most: int) -> None:
    """Raise UnusableCheckpoint where an entry has more than `most` values."""
    if count > most:
        raise UnusableCheckpoint(f"{path}: {name} has {count} entries, the most is {most}.")
