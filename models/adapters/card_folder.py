"""A folder of adapters beside a model: what each file is, looked at again whenever the folder is. No torch."""

import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic

from models.checkpoint.cache import file_identity
from models.errors import UnusableAdapter, UnusableCheckpoint
from models.model_card import FileCard

logger = logging.getLogger(__name__)

COPIED_WITHIN_S = 10.0  # a file that cannot be read so soon after it was written may still be on its way


def check_folder(key: str, folder: Path | None) -> None:
    """Check that adapters can be looked for, if a config names a folder of them under `key`. Raises UnusableAdapter."""
    if folder is not None and not folder.is_dir():
        raise UnusableAdapter(f"{key}: {folder}: no such folder.")


class CardFolder(ABC, Generic[FileCard]):
    """The files of a folder by name; each is read once, and again when it has changed."""

    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)  # of files with the same name, the first one counts
    kind: type[FileCard]

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[str, FileCard]] = {}

    @property
    def cards(self) -> tuple[FileCard, ...]:
        """What was found so far, in the order of the names; the files that cannot be used with the reason."""
        return tuple(card for _, (_, card) in sorted(self._known.items()))

    def scan(self) -> None:
        """Look for files that are new, gone or changed. A file that is still being copied waits for a later scan."""
        found = {
            path.stem: path
            for suffix in reversed(self.suffixes)
            for path in self._folder.glob(f"*{suffix}")
            if _is_listed(path)
        }
        for name in self._known.keys() - found.keys():
            del self._known[name]
        for name, path in sorted(found.items()):
            identity = ""
            try:
                identity = file_identity(path)
                if self._known.get(name, (None,))[0] == identity:
                    continue
                card = self._read(path)
                if card is not None and file_identity(path) == identity:
                    self._known[name] = identity, card
            except FileNotFoundError:
                self._known.pop(name, None)
            except OSError as error:
                self._known[name] = identity, self.kind(name=name, problem=f"cannot be read: {error.strerror}.")
            except UnusableCheckpoint as error:
                logger.warning("%s", error)  # changed while it was read, or no sum can be kept: so do the next scans

    @abstractmethod
    def describe(self, path: Path) -> FileCard:
        """Return the card of a file that can be read. Raises UnusableAdapter, OSError, UnusableCheckpoint."""

    def _read(self, path: Path) -> FileCard | None:
        """Return a file's card; None if it may not be whole yet."""
        try:
            return self.describe(path)
        except UnusableAdapter as error:
            if 0 <= time.time() - path.stat().st_mtime < COPIED_WITHIN_S:
                return None
            return self.kind(name=path.stem, problem=error.message)


def _is_listed(path: Path) -> bool:
    """Return whether a path is a file that can be read to its end and whose name a card can carry."""
    return path.is_file() and path.name.isprintable() and not path.name.startswith(".")
