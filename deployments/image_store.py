"""Where finished pictures are kept: one file each, under a name that nobody can guess."""

from pathlib import Path
from typing import NamedTuple

from deployments.file_store import FileStore

NAME = r"job_[0-9a-f]{32}-\d{1,3}-\d{1,9}-\d{1,3}\.(png|jpeg|webp)"


class StoredImage(NamedTuple):
    """An image in the store: the bytes of its file, and whether it was decoded in tiles."""

    size: int
    tiled: bool


class ImageStore(FileStore):
    """Pictures on any fsspec filesystem; a folder by default."""

    def __init__(self, root: Path | str) -> None:
        super().__init__(root, NAME, "picture")

    def job_of(self, name: str) -> str:
        """Return the job that a picture is of, by its name. Raises NotFound where no picture can have it."""
        self.check(name)
        return name.split("-", 1)[0]
