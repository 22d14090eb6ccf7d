"""Uploaded images in the Dispatcher: rows and files together, as an ingress sees them."""

import asyncio
import io
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deployments.config import InputsConfig
from deployments.dispatcher import input_rows
from deployments.dispatcher import sweeper as sweeper_module
from deployments.dispatcher.client import DispatcherClient
from deployments.dispatcher.deployment import Dispatcher
from deployments.errors import InputInUse, InputNotFound, InputQuotaExceeded, StorageFull, Unauthorized
from deployments.image_store import ImageStore
from deployments.input_store import BRIEF_TTL_S, InputStore, NewInput, StoredInput, file_name, id_of
from deployments.jobs import ImageResult
from deployments.keys import new_key
from deployments.schema import GenerationRequest
from tests.fakes import INPUTS, PATIENCE_S, FakePipeline, Jumping, LocalCalls, a_dispatcher, until
from tests.unit.deployments.test_job_queue import a_job

CONTENT = b"the bytes of an image"
ID = id_of(CONTENT)
NAME = file_name("ada", ID)


class Home:
    """A folder with a database and files, a Dispatcher over it, and a client."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = InputStore(root)
        self.images = ImageStore(root)
        self.dispatcher()

    def dispatcher(self, inputs: InputsConfig = INPUTS, **options: Any) -> Dispatcher:
        url = f"sqlite:///{self.root / 'jobs.sqlite'}"
        self.served = a_dispatcher(
            FakePipeline(self.images), database_url=url, images=self.root, inputs=inputs, **options
        )
        self.client = DispatcherClient(LocalCalls(self.served))
        return self.served

    async def upload(self, owner: str = "ada", content: bytes = CONTENT) -> tuple[StoredInput, bool] | None:
        """Store an image and add it, as the API does."""
        await asyncio.to_thread(self.files.put, file_name(owner, id_of(content)), content)
        return await self.add(owner, content)

    async def add(
        self, owner: str = "ada", content: bytes = CONTENT, ttl_s: float | None = None
    ) -> tuple[StoredInput, bool] | None:
        new = NewInput(id=id_of(content), width=4, height=3, bytes=len(content), ttl_s=ttl_s)
        return await self.client.add_input(owner, new)

    @property
    def kept(self) -> set[str]:
        """The names of the files that are there."""
        return set(os.listdir(self.root / "inputs"))


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def test_an_input_is_there_for_its_time_once_it_was_added(home: Home) -> None:
    added = await home.upload()
    assert added is not None
    image, is_new = added
    assert (image.id, image.width, image.height, image.bytes, is_new) == (ID, 4, 3, len(CONTENT), True)
    assert image.expires == image.created + 86400
    assert await home.client.input(ID, "ada") == image
    assert await home.client.inputs("ada") == [image]
    with pytest.raises(InputNotFound):
        await home.client.input(ID, "bob")


async def test_the_same_image_again_is_not_new_and_expires_later(home: Home) -> None:
    first, again = await home.upload(), await home.upload()
    assert first is not None
    assert again is not None
    assert again == (replace(first[0], expires=again[0].expires), False)
    assert again[0].expires > first[0].expires


async def test_an_input_that_is_deleted_leaves_no_file_but_that_of_other_owners(home: Home) -> None:
    await home.upload()
    await home.upload("bob")
    await home.client.delete_input(ID, "ada")
    assert home.kept == {file_name("bob", ID)}
    with pytest.raises(InputNotFound):
        await home.client.delete_input(ID, "ada")


async def test_no_input_is_added_whose_file_was_deleted_after_it_was_written(home: Home) -> None:
    await home.upload()
    home.files.put(NAME, CONTENT)  # a second upload, which a DELETE overtakes
    await home.client.delete_input(ID, "ada")
    assert await home.add() is None
    with pytest.raises(InputNotFound):
        await home.client.input(ID, "ada")
    assert (await home.upload() or (None, None))[1] is True


async def test_an_upload_of_an_image_that_is_being_deleted_waits_for_that(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    await home.upload()
    files, may_remove = home.served._inputs._files, threading.Event()
    remove = files.remove

    def held(names: Iterable[str]) -> None:
        may_remove.wait(PATIENCE_S)
        remove(names)

    monkeypatch.setattr(files, "remove", held)
    deleting = asyncio.create_task(home.client.delete_input(ID, "ada"))
    await until(lambda: not home.served._writer.store.run(input_rows.newest, "ada", 1))
    uploading = asyncio.create_task(home.upload())
    await asyncio.wait([uploading], timeout=0.2)
    assert not uploading.done()
    may_remove.set()
    await deleting
    assert await uploading is None
    assert (home.kept, await home.client.inputs("ada")) == (set(), [])


async def test_a_deletion_whose_caller_leaves_is_done_whole(home: Home) -> None:
    await home.upload()
    leaving = asyncio.create_task(home.client.delete_input(ID, "ada"))
    await asyncio.sleep(0)
    leaving.cancel()
    await until(lambda: not home.kept)
    with pytest.raises(InputNotFound):
        await home.client.input(ID, "ada")


async def test_an_input_beyond_the_quota_leaves_no_file(home: Home) -> None:
    home.dispatcher(InputsConfig(max_owner_bytes=2 * 65536))
    for content in (b"1", b"2"):
        await home.upload(content=content)
    kept = home.kept
    with pytest.raises(InputQuotaExceeded):
        await home.client.check_input_room("ada", 1)
    with pytest.raises(InputQuotaExceeded):
        await home.upload(content=b"3")
    assert home.kept == kept
    await home.client.check_input_room("bob", 1)
    assert (await home.upload(content=b"1") or (None, None))[1] is False


async def test_inputs_beyond_the_bound_on_all_leave_no_file(home: Home) -> None:
    home.dispatcher(InputsConfig(max_total_bytes=65536))
    await home.upload()
    for refused in (home.client.check_input_room("bob", 1), home.upload("bob")):
        with pytest.raises(StorageFull):
            await refused
    assert home.kept == {NAME}


async def test_with_keys_on_an_owner_without_one_uploads_nothing(home: Home) -> None:
    key, _ = new_key("ada")
    (home.root / "keys.json").write_text(f"[{key.model_dump_json()}]")
    home.dispatcher(keys=home.root / "keys.json")
    for refused in (home.client.check_input_room("browser:1", 1), home.add("browser:1")):
        with pytest.raises(Unauthorized):
            await refused
    await home.client.check_input_room(key.owner, 1)


async def test_an_input_may_be_kept_for_a_shorter_time_which_shortens_no_other(home: Home) -> None:
    home.files.put(NAME, CONTENT)
    for ttl_s, kept_s in ((600.0, 600), (None, 86400), (600.0, 86400)):
        added = await home.add(ttl_s=ttl_s)
        assert added is not None
        assert added[0].expires - added[0].created == pytest.approx(kept_s, abs=60)


# -- results as inputs


async def a_result(home: Home) -> ImageResult:
    """A result of ada's."""
    job = await home.client.submit(GenerationRequest(prompt="a circle", seed=7), "ada")
    async for state in home.client.watch(job.id):
        job = state
    return job.images[0]


async def test_a_result_that_a_field_names_becomes_an_input_that_outlives_it(home: Home) -> None:
    result = await a_result(home)
    content = home.images.get(result.name)
    named = {"init.input": result.name, "init.mask": ID}
    found = await home.served._inputs.resolve("ada", named, home.served.job)
    assert found == {"init.input": id_of(content), "init.mask": ID}  # whether that is there, the job's transaction sees
    home.images.remove([result.name])
    image = await home.client.input(id_of(content), "ada")
    sides = Image.open(io.BytesIO(content)).size  # of the file: the fake's is smaller than its spec says
    assert sides == (4, 4)
    assert (image.width, image.height, image.bytes) == (*sides, len(content))
    assert image.expires == image.created + BRIEF_TTL_S
    assert home.files.get(file_name("ada", image.id)) == content


@pytest.mark.parametrize("case", ["another's", "deleted", "unknown", "no name", "an address"])
async def test_a_result_that_is_not_there_for_the_owner_is_refused_in_the_field_that_names_it(
    home: Home, case: str
) -> None:
    result = await a_result(home)
    owner, name = "bob" if case == "another's" else "ada", result.name
    if case == "deleted":
        home.images.remove([name])
    name = {"unknown": name.replace("-0-", "-1-"), "no name": "x" * 999, "an address": "https://a.org"}.get(case, name)
    with pytest.raises(InputNotFound, match=r"^init\.input must be the id of an input or the name of an") as caught:
        await home.served._inputs.resolve(owner, {"init.input": name}, home.served.job)
    assert caught.value.param == "init.input"
    assert len(caught.value.message) < 200
    assert home.kept == set()


# -- sweeping


@pytest.fixture
def swept(home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Jumping]:
    """Let the next Dispatcher sweep all the time; return its clock."""
    monkeypatch.setattr(sweeper_module, "SWEEP_INTERVAL_S", 0.0)

    def begun() -> Jumping:
        jumping = Jumping()
        home.dispatcher(clock=jumping.clock)
        return jumping

    return begun


async def test_inputs_expire_with_their_files_but_not_those_that_a_job_needs(
    home: Home, swept: Callable[[], Jumping]
) -> None:
    jumping = swept()
    await home.upload()
    await home.upload(content=b"another")
    home.served._writer.store.add(job := a_job(), inputs={"init.input": ID})
    jumping.later(86401)
    await until(lambda: home.kept == {NAME})
    with pytest.raises(InputInUse):
        await home.client.delete_input(ID, "ada")
    home.served._writer.store.withdraw(job)
    await until(lambda: not home.kept)


async def test_a_clock_that_jumps_expires_no_input(home: Home, swept: Callable[[], Jumping]) -> None:
    jumping, sweeps = swept(), []
    await home.upload()
    inputs, expire = home.served._inputs, home.served._inputs.expire

    async def counted(before: float) -> None:
        sweeps.append(before)
        await expire(before)

    inputs.expire = counted  # type: ignore[method-assign]
    jumping.ahead_s += 8 * 86400
    await until(lambda: len(sweeps) > 2)
    assert home.kept == {NAME}


async def test_files_of_uploads_that_broke_off_are_swept_when_they_are_old(home: Home) -> None:
    await home.upload()
    young, old = file_name("ada", id_of(b"young")), file_name("ada", id_of(b"old"))
    partial = f".{NAME}.0123abcd.partial"
    for name in (young, old):
        home.files.put(name, b"")
    (home.root / "inputs" / partial).write_bytes(b"")
    for name in (NAME, old, partial):
        os.utime(home.root / "inputs" / name, (0, 1000.0))
    home.dispatcher()  # which sweeps as it begins
    await until(lambda: home.kept == {NAME, young})
    assert home.files.get(NAME) == CONTENT
