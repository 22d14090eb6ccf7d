"""Files on any fsspec filesystem, such as a folder: each is written whole or not at all, and survives a power cut."""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import fsspec
from fsspec.implementations.local import LocalFileSystem

from deployments.errors import NotFound, StorageFull

RESERVED_BYTES = 64 * 2**20  # of a local disk, which files leave
logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


class FileStore:
    """The files of one folder. Calls block.

    Args:
        root: the folder, as a path or as fsspec says it; it is created.
        names: what the whole name of a file matches; all other files in the folder are left alone.
        content: what a file holds, as errors call it.
        folder: a folder in `root` that has the files instead.
    """

    def __init__(self, root: Path | str, names: str, content: str, folder: str = "") -> None:
        # Others write there too: what was listed once would else be listed for ever.
        self._files, path = fsspec.url_to_fs(str(root), use_listings_cache=False)
        self._root = f"{path}/{folder}" if folder else path
        self._files.makedirs(self._root, exist_ok=True)
        self._name = re.compile(names)
        self._any = re.compile(rf"{names}|\.{names}(\.[0-9a-f]{{8}})?\.partial")
        self._content = content

    def put(self, name: str, content: bytes) -> int:
        """Write a file, in place of one of the same name; return its size in bytes.

        It appears whole or not at all, also where others write the same one, and then survives a power cut.

        Raises:
            StorageFull: it could not be written; nothing of it is left.
        """
        partial = f"{self._root}/.{name}.{token_hex(4)}.partial"
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
            raise StorageFull(f"The {self._content} could not be stored: {why}.") from error
        return len(content)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; those that are gone already are passed over."""
        for name in names:
            with suppress(FileNotFoundError):
                self._files.rm_file(f"{self._root}/{name}")

    def names(self, before: float) -> list[str]:
        """Return the names of files, half-written ones too, last changed before a moment (seconds since 1970)."""
        found = []
        for path in self._files.ls(self._root, detail=False):
            name = path.rpartition("/")[2]
            with suppress(FileNotFoundError):  # it has gone since
                if self._any.fullmatch(name) and self._files.modified(path).timestamp() < before:
                    found.append(name)
        return found

    def check(self, name: str) -> None:
        """Raise NotFound where no file can have this name."""
        if not self._name.fullmatch(name):
            raise NotFound(f"There is no file {name[:80]}.")

    def get(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            NotFound: no file has this name.
        """
        self.check(name)
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError as error:
            raise NotFound(f"There is no file {name}.") from error

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return self._files.exists(f"{self._root}/{name}")

    def _write(self, path: str, content: bytes) -> None:
        with self._files.open(path, "wb") as file:
            file.write(content)
            file.flush()
            if isinstance(self._files, LocalFileSystem):  # elsewhere a file that has been closed is safe
                os.fsync(file.fileno())

    def _check_room(self, size: int) -> None:
        """Raise OSError where a file would take what the database beside it needs, to forget older ones too."""
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
