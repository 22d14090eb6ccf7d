"""The LoRA files beside a model: what each is, looked at again whenever the folder is. No torch."""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from models.adapters.lora_header import LoraHeader, read_lora_header
from models.checkpoint.cache import file_identity, recorded_sum
from models.errors import UnusableAdapter, UnusableCheckpoint
from models.model_card import AdapterCard

logger = logging.getLogger(__name__)

COPIED_WITHIN_S = 10.0  # a file that is no LoRA so soon after it was written may still be on its way
NAME = re.compile(r"[^:<>,\s/\\]([^:<>,/\\]{0,98}[^:<>,\s/\\])?")


def check_folder(folder: Path | None) -> None:
    """Check that adapters can be looked for, if a config names a folder of them. Raises UnusableAdapter."""
    if folder is not None and not folder.is_dir():
        raise UnusableAdapter(f"adapters: {folder}: no such folder.")


class LoraFolder:
    """The files of a folder by name; each is read once, and again when it has changed."""

    def __init__(self, folder: Path, problem: Callable[[LoraHeader], str | None]) -> None:
        """`problem` says why a LoRA is not for the model; None if it is."""
        self._folder = folder
        self._problem = problem
        self._known: dict[str, tuple[str, AdapterCard]] = {}

    @property
    def cards(self) -> tuple[AdapterCard, ...]:
        """What was found so far, in the order of the names; the files that cannot be used with the reason."""
        return tuple(card for _, (_, card) in sorted(self._known.items()))

    def scan(self) -> None:
        """Look for files that are new, gone or changed. A file that is still being copied waits for a later scan."""
        found = {path.stem: path for path in self._folder.glob("*.safetensors") if not path.name.startswith(".")}
        for name in self._known.keys() - found.keys():
            del self._known[name]
        for name, path in sorted(found.items()):
            try:
                identity = file_identity(path)
                if self._known.get(name, (None,))[0] == identity:
                    continue
                card = self._read(name, path)
                if card is not None and file_identity(path) == identity:
                    self._known[name] = identity, card
            except OSError:
                continue  # gone while it was read: the next scan knows
            except UnusableCheckpoint as error:
                logger.warning("%s", error)  # changed while it was read, or no sum can be kept: so do the next scans

    def _read(self, name: str, path: Path) -> AdapterCard | None:
        """Return a file's card; None if it may not be whole yet."""
        try:
            header = read_lora_header(path)
        except UnusableAdapter as error:
            if time.time() - path.stat().st_mtime < COPIED_WITHIN_S:
                return None
            return AdapterCard(name=name, problem=error.message)
        problem = self._problem(header)
        if not NAME.fullmatch(name):
            problem = "must be renamed: a name has up to 100 characters, none of : < > , / \\ and no space at its ends."
        return AdapterCard(
            name=name,
            sha256=recorded_sum(path),
            rank=header.rank,
            components=header.components,
            title=header.title,
            base=header.base,
            trigger_words=header.trigger_words,
            problem=problem,
        )
