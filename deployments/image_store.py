"""Where finished pictures are kept: one file each, under a name that nobody can guess."""

import re
from pathlib import Path

import fsspec

from models.errors import NotFound

NAME = re.compile(r"job_[0-9a-f]{32}-\d{1,3}-\d{1,3}\.(png|jpeg|webp)")


class ImageStore:
    """Pictures on any fsspec filesystem; a folder by default."""

    def __init__(self, root: Path | str) -> None:
        self._files, self._root = fsspec.url_to_fs(str(root))
        self._files.makedirs(self._root, exist_ok=True)

    def put(self, name: str, content: bytes) -> None:
        """Write a picture; it appears whole or not at all."""
        partial = f"{self._root}/.{name}.partial"
        self._files.pipe_file(partial, content)
        self._files.mv(partial, f"{self._root}/{name}")

    def get(self, name: str) -> bytes:
        """Return a picture's bytes.

        Raises:
            NotFound: no picture has this name.
        """
        if not NAME.fullmatch(name):
            raise NotFound(f"There is no file {name[:80]}.")
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError as error:
            raise NotFound(f"There is no file {name}.") from error
