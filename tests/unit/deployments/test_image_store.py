"""Pictures on disk."""

import errno
import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from deployments import file_store
from deployments.errors import NotFound, StorageFull
from deployments.image_store import ImageStore

NAME = f"job_{'0' * 32}-0-1-1.png"
OTHER = f"job_{'0' * 32}-1-1-1.png"


def test_a_picture_comes_back_and_its_size_is_known(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    assert store.put(NAME, b"12345") == 5
    assert store.get(NAME) == b"12345"
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


def test_a_picture_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, synced = ImageStore(tmp_path), []

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / NAME).exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    store.put(NAME, b"12345")
    [(partial, had_name), folder] = synced
    assert re.fullmatch(rf"{re.escape(f'{tmp_path}/.{NAME}')}\.[0-9a-f]{{8}}\.partial", partial)
    assert (had_name, folder) == (False, (str(tmp_path), True))


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="No space left on device") as caught:
        store.put(NAME, b"12345")
    assert caught.value.code == "storage_full"
    assert list(tmp_path.iterdir()) == []


def test_pictures_leave_room_for_the_database_on_their_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(tmp_path)
    free = file_store.RESERVED_BYTES + 4
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    store.put(NAME, b"1234")
    with pytest.raises(StorageFull, match="less than 64 MiB would be left"):
        store.put(OTHER, b"12345")
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_removing_passes_over_what_is_gone(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    store.put(NAME, b"12345")
    store.remove([NAME, NAME])
    with pytest.raises(NotFound):
        store.get(NAME)


def test_files_are_listed_by_age_half_written_ones_too(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    store.put(NAME, b"12345")
    store.put(OTHER, b"12345")
    partials = [f".{OTHER}.0123abcd.partial", f".{OTHER}.partial"]  # the second is how versions before named them
    for partial in partials:
        (tmp_path / partial).write_bytes(b"12")
        os.utime(tmp_path / partial, (0, 2000.0))
    os.utime(tmp_path / NAME, (0, 1000.0))
    assert store.names(before=1000.0) == []
    assert store.names(before=1000.5) == [NAME]
    assert sorted(store.names(before=2000.5)) == [*partials, NAME]


def test_a_store_elsewhere_keeps_pictures_too() -> None:
    store = ImageStore("memory://pictures")
    store.put(NAME, b"12345")
    assert store.get(NAME) == b"12345"
    assert store.names(before=time.time() + 9) == [NAME]
    assert store.names(before=time.time() - 9) == []


class Bucket(MemoryFileSystem):
    """Like s3fs it remembers what it has listed, and its errors are no OSError."""

    protocol = "bucket"

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        listed = self.dircache.get(path) or super().ls(path, detail=True, **options)
        self.dircache[path] = listed
        return listed if detail else [one["name"] for one in listed]

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "unreachable" in path:
            raise RuntimeError("Could not connect to the endpoint, with a secret in its words")
        return super().open(path, mode, **options)


fsspec.register_implementation("bucket", Bucket, clobber=True)


def test_a_listing_of_a_bucket_has_what_others_have_written_since() -> None:
    store = ImageStore("bucket://listed")
    store.put(NAME, b"1")
    assert store.names(before=time.time() + 1) == [NAME]
    fsspec.filesystem("bucket").pipe_file(f"bucket://listed/{OTHER}", b"2")
    assert sorted(store.names(before=time.time() + 1)) == [NAME, OTHER]


def test_a_bucket_that_cannot_be_reached_is_said_without_its_own_words() -> None:
    with pytest.raises(StorageFull, match=r"^The picture could not be stored: RuntimeError\.$"):
        ImageStore("bucket://unreachable").put(NAME, b"1")
