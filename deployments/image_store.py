"""Where finished pictures are kept: one file each, under a name that nobody can guess."""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from deployments.errors import NotFound, StorageFull

NAME = re.compile(r"job_[0-9a-f]{32}-\d{1,3}-\d{1,9}-\d{1,3}\.(png|jpeg|webp)")
FILE = re.compile(rf"{NAME.pattern}|\.{NAME.pattern}\.partial")
RESERVED_BYTES = 64 * 2**20  # of a local disk, which pictures leave
logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


class StoredImage(NamedTuple):
    """An image in the store: the bytes of its file, and whether it was decoded in tiles."""

    size: int
    tiled: bool


class ImageStore:
    """Pictures on any fsspec filesystem; a folder by default."""

    def __init__(self, root: Path | str) -> None:
        # Others write there too: what was listed once would else be listed for ever.
        self._files, self._root = fsspec.url_to_fs(str(root), use_listings_cache=False)
        self._files.makedirs(self._root, exist_ok=True)

    def put(self, name: str, content: bytes) -> int:
        """Write a picture; it appears whole or not at all, and then survives a power cut. Return its size in bytes.

        Raises:
            StorageFull: it could not be written; nothing of it is left.
        """
        partial = f"{self._root}/.{name}.partial"
        try:
            self._check_room(len(content))
            self._write(partial, content)
            self._files.mv(partial, f"{self._root}/{name}")
            self._sync_folder()
        except Exception as error:  # each filesystem has its own
            with suppress(Exception):
                self._files.rm_file(partial)
            logger.error("cannot write %s: %s", partial, error)
            why = getattr(error, "strerror", None) or type(error).__name__
            raise StorageFull(f"The picture could not be stored: {why}.") from error
        return len(content)

    def remove(self, names: Iterable[str]) -> None:
        """Delete pictures; those that are gone already are passed over."""
        for name in names:
            with suppress(FileNotFoundError):
                self._files.rm_file(f"{self._root}/{name}")

    def names(self, before: float) -> list[str]:
        """Return the names of pictures, half-written ones too, last changed before a moment (seconds since 1970)."""
        found = []
        for path in self._files.ls(self._root, detail=False):
            name = path.rpartition("/")[2]
            with suppress(FileNotFoundError):  # it has gone since
                if FILE.fullmatch(name) and self._files.modified(path).timestamp() < before:
                    found.append(name)
        return found

    @staticmethod
    def job_of(name: str) -> str:
        """Return the job that a picture is of, by its name. Raises NotFound where no picture can have it."""
        if not NAME.fullmatch(name):
            raise NotFound(f"There is no file {name[:80]}.")
        return name.split("-", 1)[0]

    def get(self, name: str) -> bytes:
        """Return a picture's bytes.

        Raises:
            NotFound: no picture has this name.
        """
        self.job_of(name)
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError as error:
            raise NotFound(f"There is no file {name}.") from error

    def _write(self, path: str, content: bytes) -> None:
        with self._files.open(path, "wb") as file:
            file.write(content)
            file.flush()
            if isinstance(self._files, LocalFileSystem):  # elsewhere a file that has been closed is safe
                os.fsync(file.fileno())

    def _check_room(self, size: int) -> None:
        """Raise OSError where a picture would take what the database beside it needs, to forget older ones too."""
        if isinstance(self._files, LocalFileSystem) and shutil.disk_usage(self._root).free < size + RESERVED_BYTES:
            raise OSError(errno.ENOSPC, f"less than {RESERVED_BYTES // 2**20} MiB would be left on the disk")

    def _sync_folder(self) -> None:
        """A new name is safe only once its folder is."""
        if not isinstance(self._files, LocalFileSystem):
            return
        folder = os.open(self._root, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
