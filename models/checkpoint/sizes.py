"""How large the model of a config is at least, by arithmetic: what a checkpoint's weights must hold. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from models.checkpoint.configs import check_count, leaves, shortened
from models.errors import UnusableCheckpoint

MAX_LEVELS = 8  # of resolution, in UNet and VAE; real ones have 3 or 4
SHOWN = 3  # entries in a message


class Size(NamedTuple):
    """How large a model is."""

    tensors: int  # that have elements
    elements: int


class SizeEntries:
    """The entries of a config that size its model: whole numbers, one or several."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._config = config
        self._read = set[str]()

    def all(self, entry: str, default: int) -> list[int]:
        """Return the numbers of an entry, lists in lists as one; `default` is the library's."""
        value = self._config.get(entry)
        numbers = [default] if value is None else leaves(self._path, value)
        if not numbers or any(type(number) is not int or number < 0 for number in numbers):
            raise UnusableCheckpoint(
                f"{self._path}: {entry} = {shortened(value)} must be a whole number of 0 or more, or a list of such."
            )
        if value is not None:
            self._read.add(entry)
        return numbers

    def one(self, entry: str, default: int) -> int:
        """Return the greatest number of an entry."""
        return max(self.all(entry, default))

    def widths(self, default: int) -> list[int]:
        """Return the channels of each level."""
        widths = self.all("block_out_channels", default)
        check_count(self._path, "block_out_channels", len(widths), MAX_LEVELS)
        return widths

    def greatest(self, layers: bool) -> str:
        """Return the greatest of what was read, of layers or of widths, for a message."""
        found = [entry for entry in self._read if ("layers" in entry) == layers]
        greatest = sorted(found, key=lambda entry: -self.one(entry, 0))[:SHOWN]
        return ", ".join(f"{entry} = {str(self._config[entry])[:40]}" for entry in greatest)
