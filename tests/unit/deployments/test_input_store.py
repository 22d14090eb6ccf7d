"""Uploaded images on disk."""

import os
import threading
from pathlib import Path

import pytest

from deployments.errors import NotFound
from deployments.image_store import ImageStore
from deployments.input_store import InputStore, file_name, id_of

CONTENT = b"the bytes of an image"
ID = id_of(CONTENT)
NAME = file_name("ada", ID)


def test_an_id_is_that_of_the_bytes() -> None:
    assert ID == "input_" + "c4cb58a7ced38a9c5f95c3035efa9e5a0d1be6bf7c28dc83377398eef1632ad4"


def test_an_input_comes_back_to_its_owner_alone(tmp_path: Path) -> None:
    store = InputStore(tmp_path)
    assert store.put(NAME, CONTENT) == len(CONTENT)
    assert store.get(NAME) == CONTENT
    with pytest.raises(NotFound):
        store.get(file_name("bob", ID))
    assert (store.has(NAME), store.has(file_name("bob", ID))) == (True, False)


def test_what_one_owner_deletes_another_keeps(tmp_path: Path) -> None:
    store, other = InputStore(tmp_path), file_name("bob", ID)
    for name in (NAME, other):
        store.put(name, CONTENT)
    store.remove([NAME])
    assert (store.has(NAME), store.get(other)) == (False, CONTENT)


def test_inputs_and_images_do_not_see_each_other(tmp_path: Path) -> None:
    images, inputs = ImageStore(tmp_path), InputStore(tmp_path)
    images.put(image := f"job_{'0' * 32}-0-1-1.png", b"1")
    inputs.put(NAME, CONTENT)
    assert images.names(before=9e9) == [image]
    assert inputs.names(before=9e9) == [NAME]
    with pytest.raises(NotFound):
        inputs.get(image)


@pytest.mark.parametrize("name", ["x", "../secret", f"{NAME}\n", f".{NAME}.0123abcd.partial", f"inputs/{NAME}"])
def test_no_other_name_is_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        InputStore(tmp_path).get(name)


def test_two_who_upload_the_same_image_at_once_leave_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, both_have_written, sync = InputStore(tmp_path), threading.Barrier(2, timeout=15), os.fsync

    def fsync(descriptor: int) -> None:
        both_have_written.wait()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    writers = [threading.Thread(target=store.put, args=(NAME, CONTENT)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert store.get(NAME) == CONTENT
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == [NAME]


def test_a_store_in_a_bucket_has_its_own_folder() -> None:
    store = InputStore("memory://bucket/")
    store.put(NAME, CONTENT)
    assert ImageStore("memory://bucket")._files.cat_file(f"/bucket/inputs/{NAME}") == CONTENT
