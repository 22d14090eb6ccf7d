"""The LoRA files beside a model. No torch."""

import re
from collections.abc import Callable
from pathlib import Path

from models.adapters.card_folder import CardFolder
from models.adapters.lora_header import LoraHeader, read_lora_header
from models.checkpoint.cache import recorded_sum
from models.model_card import AdapterCard

NAME = re.compile(r"[^:<>,\s/\\]([^:<>,/\\]{0,98}[^:<>,\s/\\])?")


class LoraFolder(CardFolder[AdapterCard]):
    """The LoRAs of a folder, each with its header's facts."""

    kind = AdapterCard

    def __init__(self, folder: Path, problem: Callable[[LoraHeader], str | None]) -> None:
        """`problem` says why a LoRA is not for the model; None if it is."""
        super().__init__(folder)
        self._problem = problem

    def describe(self, path: Path) -> AdapterCard:
        """Return a file's card. Raises UnusableAdapter, OSError, UnusableCheckpoint."""
        header = read_lora_header(path)
        problem = self._problem(header)
        if not NAME.fullmatch(path.stem):
            problem = "must be renamed: a name has up to 100 characters, none of : < > , / \\ and no space at its ends."
        return AdapterCard(
            name=path.stem,
            sha256=recorded_sum(path),
            tensors_sha256=recorded_sum(path, header.tensors_start),
            rank=header.rank,
            components=header.components,
            title=header.title,
            base=header.base,
            trigger_words=header.trigger_words,
            problem=problem,
        )
