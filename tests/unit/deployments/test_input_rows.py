"""Uploaded images in the database, for SQLite and PostgreSQL alike."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from deployments.config import LEAST_COUNTED_BYTES, InputsConfig
from deployments.dispatcher import input_rows
from deployments.dispatcher.job_store import SCHEMA_VERSION, JobStore
from deployments.errors import InputInUse, InputNotFound, InputQuotaExceeded, QuotaExceeded, StorageFull, Superseded
from deployments.input_store import StoredInput, file_name, id_of
from deployments.jobs import Job, Timestamps
from models.errors import InvalidRequest
from models.parameters import MASK_RULES, MaskFlaw
from tests.unit.deployments.test_job_queue import a_job

CONFIG = InputsConfig()


def an_input(name: str = "a", size: int = 100_000, created: float = 0.0, expires: float = 100.0) -> StoredInput:
    """An image of 4 x 3 pixels."""
    return StoredInput(id=id_of(name.encode()), width=4, height=3, bytes=size, created=created, expires=expires)


A, B = an_input("a"), an_input("b", created=1.0)


class Rows:
    """The functions of `input_rows`, each in a transaction of a database."""

    def __init__(self, url: str) -> None:
        self.store = JobStore(url)
        self.store.begin()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        work = getattr(input_rows, name)
        return lambda *args: self.store.run(work, *args)

    def added(self, *images: StoredInput, owner: str = "ada") -> None:
        """Add some inputs."""
        for image in images:
            self.add(owner, image, CONFIG)


@pytest.fixture
def rows(database_url: str) -> Rows:
    return Rows(database_url)


def done(job: Job) -> Job:
    return replace(job, status="succeeded", timestamps=Timestamps(created=0, ended=5.0))


def test_an_input_is_its_owners_alone(rows: Rows) -> None:
    rows.added(A)
    assert rows.find("ada", A.id) == A
    for owner, input_id in (("bob", A.id), ("ada", B.id), ("ada", "input_\0"), ("ada", A.id.removeprefix("input_"))):
        with pytest.raises(InputNotFound) as caught:
            rows.find(owner, input_id)
        assert (caught.value.code, caught.value.param) == ("input_not_found", None)
    rows.added(A, owner="bob")
    rows.remove("bob", A.id)
    assert rows.find("ada", A.id) == A


def test_the_same_image_again_is_the_same_input_and_kept_for_longer(rows: Rows) -> None:
    assert rows.add("ada", A, CONFIG) == (A, True)
    later = replace(A, created=50.0, expires=150.0)
    assert rows.add("ada", later, CONFIG) == (replace(A, expires=150.0), False)
    assert rows.add("ada", A, CONFIG) == (replace(A, expires=150.0), False)
    assert rows.kept_bytes() == A.bytes


def test_inputs_are_listed_newest_first_and_from_one_on(rows: Rows) -> None:
    same_time = [an_input(name, created=7.0) for name in "cdef"]
    rows.added(A, B, *same_time)
    rows.added(A, owner="bob")
    listed = rows.newest("ada", 10)
    assert listed[4:] == [B, A]
    assert {each.id for each in listed[:4]} == {each.id for each in same_time}
    assert rows.newest("ada", 2) == listed[:2]
    for k, each in enumerate(listed):
        assert rows.newest("ada", 10, each.id) == listed[k + 1 :]
    with pytest.raises(InputNotFound):
        rows.newest("bob", 10, B.id)


def test_an_owner_keeps_so_many_bytes_and_no_more(rows: Rows) -> None:
    config = InputsConfig(max_owner_bytes=250_000)
    rows.add("ada", A, config)
    rows.add("ada", B, config)
    with pytest.raises(InputQuotaExceeded, match=r"may take 250000 bytes.* 200000 are taken.* take 100000\.") as caught:
        rows.add("ada", an_input("c", created=60.0), config)
    assert (caught.value.code, caught.value.retry_after_s) == ("input_quota_exceeded", 40)
    rows.add("ada", A, config)  # it is there
    rows.add("bob", an_input("c"), config)
    rows.remove("ada", B.id)
    rows.add("ada", an_input("c"), config)


def test_a_small_input_counts_as_a_larger_one_so_that_their_number_is_bounded(rows: Rows) -> None:
    config = InputsConfig(max_owner_bytes=3 * LEAST_COUNTED_BYTES)
    for name in "abc":
        rows.add("ada", an_input(name, size=10), config)
    with pytest.raises(InputQuotaExceeded, match=r"take 196608 bytes, each 65536 or more; 196608 are taken.* 65536\."):
        rows.add("ada", an_input("d", size=10), config)
    assert rows.kept_bytes() == 3 * LEAST_COUNTED_BYTES


def test_all_owners_together_keep_so_many_bytes(rows: Rows) -> None:
    config = InputsConfig(max_total_bytes=250_000)
    rows.add("ada", A, config)
    rows.add("bob", A, config)
    with pytest.raises(StorageFull, match=r"no room for more inputs\. Try again when others have expired"):
        rows.add("eve", A, config)
    with pytest.raises(StorageFull, match=r"no room for more inputs\. Delete some of yours with DELETE /v1/inputs/ID"):
        rows.add("ada", B, config)
    with pytest.raises(StorageFull):  # counted as the owner's quota counts it
        rows.add("ada", an_input("c", size=10), config)


def test_a_job_that_has_not_ended_keeps_its_inputs(rows: Rows) -> None:
    rows.added(A, B)
    rows.store.add(job := a_job(), inputs={"init.input": A.id, "init.mask": B.id})
    assert rows.expire(1e9) == []
    with pytest.raises(InputInUse, match=f"Job {job.id} needs input {A.id}") as caught:
        rows.remove("ada", A.id)
    assert caught.value.code == "input_in_use"
    rows.store.save(replace(job, status="running"))
    with pytest.raises(InputInUse):
        rows.remove("ada", B.id)
    rows.store.save(done(job))
    rows.remove("ada", A.id)
    assert rows.expire(1e9) == [file_name("ada", B.id)]


def test_what_a_job_needs_outlives_the_process_that_accepted_it(rows: Rows, database_url: str) -> None:
    rows.added(A)
    rows.store.add(job := a_job(), inputs={"init.input": A.id})
    later = Rows(database_url)
    with pytest.raises(InputInUse):
        later.remove("ada", A.id)
    later.store.save(done(job))
    later.remove("ada", A.id)
    with pytest.raises(Superseded):
        rows.added(A)


def test_an_input_that_two_jobs_or_two_fields_name_is_kept_for_the_last_of_them(rows: Rows) -> None:
    rows.added(A)
    first, second = a_job(), a_job()
    rows.store.add(first, inputs={"init.input": A.id, "init.mask": A.id})
    rows.store.add(second, inputs={"init.input": A.id})
    rows.store.save(done(first))
    with pytest.raises(InputInUse, match=second.id):
        rows.remove("ada", A.id)
    rows.store.withdraw(second)
    rows.remove("ada", A.id)


@pytest.mark.parametrize("input_id", [B.id, "input_1", "https://example.org/a.png"])
def test_a_job_with_an_input_that_its_owner_does_not_have_is_refused_whole(rows: Rows, input_id: str) -> None:
    rows.added(A)
    rows.added(B, owner="bob")
    job = a_job()
    with pytest.raises(InputNotFound, match=r"^init\.mask must be the id of an input that POST") as caught:
        rows.store.add(job, None, 1e9, {"init.input": A.id, "init.mask": input_id})
    assert caught.value.param == "init.mask"
    assert rows.store.job(job.id) is None
    assert rows.store.spent("ada", 0.0) == 0
    rows.remove("ada", A.id)


def test_a_job_that_is_refused_for_another_reason_keeps_no_input(rows: Rows) -> None:
    rows.added(A)
    with pytest.raises(QuotaExceeded):
        rows.store.add(a_job(), None, 1e-9, {"init.input": A.id})
    rows.remove("ada", A.id)


def test_inputs_expire_at_their_time(rows: Rows) -> None:
    rows.added(A, replace(B, expires=200.0))
    assert rows.expire(100.0) == []
    assert rows.expire(100.1) == [file_name("ada", A.id)]
    assert rows.newest("ada", 9) == [replace(B, expires=200.0)]


def test_a_file_is_an_orphan_that_no_owner_has_as_an_input(rows: Rows) -> None:
    rows.added(A, B)
    rows.added(A, owner="bob")
    known = [file_name(owner, image.id) for owner, image in (("ada", A), ("ada", B), ("bob", A))]
    strange = [file_name("bob", B.id), f".{known[0]}.0123abcd.partial"]
    assert rows.orphans([*known, *strange]) == strange
    assert rows.orphans([]) == []


def test_a_database_of_the_second_schema_gets_the_tables_of_inputs(database_url: str) -> None:
    rows = Rows(database_url)
    rows.store.add(job := a_job())
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for table in ("inputs", "pins"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE service SET schema_version = 2"))
    later = Rows(database_url)
    later.added(A)
    assert (later.find("ada", A.id), later.store.job(job.id)) == (A, job)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT schema_version FROM service")) == SCHEMA_VERSION
    engine.dispose()


def test_a_database_of_the_third_schema_gets_the_column_of_what_keeps_inputs_from_being_masks(
    database_url: str,
) -> None:
    Rows(database_url).added(A)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE inputs DROP COLUMN mask_flaw"))
        connection.execute(text("UPDATE service SET schema_version = 3"))
    engine.dispose()
    later = Rows(database_url)
    assert later.find("ada", A.id) == A
    later.store.add(a_job(), inputs={"init.mask": A.id})  # as nothing is known of it
    later.add("ada", A, CONFIG, "black")  # it came again
    with pytest.raises(InvalidRequest, match=r"^init\.mask must be white"):
        later.store.add(a_job(), inputs={"init.mask": A.id})


@pytest.mark.parametrize("flaw", MASK_RULES)
def test_an_input_that_can_be_no_mask_is_refused_as_one_and_nothing_is_written(rows: Rows, flaw: MaskFlaw) -> None:
    rows.add("ada", A, CONFIG, flaw)
    rows.add("ada", A, CONFIG)  # a copy of it, of which nothing is known
    rows.store.add(a_job(), inputs={"init.input": A.id})
    job = a_job()
    with pytest.raises(InvalidRequest) as caught:
        rows.store.add(job, inputs={"init.input": A.id, "init.mask": A.id})
    assert (caught.value.message, caught.value.param) == (f"init.mask {MASK_RULES[flaw]}.", "init.mask")
    assert rows.store.job(job.id) is None


def test_columns_of_sqlite_that_hold_no_number_end_no_quota(tmp_path: os.PathLike[str]) -> None:
    rows = Rows(f"sqlite:///{tmp_path}/jobs.sqlite")
    rows.added(A)
    with rows.store._connected() as connection:
        connection.execute(text("UPDATE inputs SET size = 'much'"))
    rows.added(B)
    assert rows.kept_bytes() == LEAST_COUNTED_BYTES + B.bytes
