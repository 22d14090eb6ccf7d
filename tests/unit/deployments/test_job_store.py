"""What is on disk, by example: the same for SQLite and, in the long tests, for PostgreSQL."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError

from deployments.dispatcher.job_documents import DOCUMENT
from deployments.dispatcher.job_queue import JobQueue, Limits
from deployments.dispatcher.job_store import PROBE_BYTES, SCHEMA_VERSION, JobStore, NotConfirmed, RequestKey
from deployments.dispatcher.lease import Lease
from deployments.dispatcher.quota import DAY_S
from deployments.errors import Gone, IdempotencyKeyReused, QuotaExceeded, StoreUnavailable, Superseded, UnreadableJob
from deployments.jobs import Job, Timestamps
from deployments.schema import MAX_PROMPT
from tests.fakes import a_result, a_spec
from tests.unit.deployments.test_job_queue import a_job

KEY = RequestKey("key", "hash")


@pytest.fixture
def begin(database_url: str) -> Callable[[], tuple[JobStore, list[Job]]]:
    """Begin as another process would, on the same database."""

    def begun() -> tuple[JobStore, list[Job]]:
        store = JobStore(database_url)
        return store, store.begin()

    return begun


@pytest.fixture
def store(begin: Callable[[], tuple[JobStore, list[Job]]]) -> JobStore:
    return begin()[0]


def ended(job: Job, at: float = 5.0, size: int = 100) -> Job:
    """A job that has its picture."""
    picture = replace(a_result(job.specs[0], Lease(job.id, 0)), size=size)
    return replace(job, status="succeeded", images=(picture,), timestamps=Timestamps(created=0, ended=at))


def test_the_folder_of_a_database_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    JobStore(f"sqlite:///{tmp_path / 'state' / 'jobs.sqlite'}").begin()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_job_comes_back_as_it_was_saved(store: JobStore) -> None:
    queue = JobQueue(Limits(9), epoch=3)
    queue.submit(job := a_job(pictures=2, spec=a_spec(prompt="a “cat”\n🐈", seed=2**32 - 1)))
    store.add(job)
    lease, running = queue.grant("shapes", 1.0)
    drawn = queue.finish(lease, a_result(job.specs[0], lease), 2.0)
    store.save(drawn)
    assert store.job(job.id) == replace(drawn, progress=None)
    assert running.progress is not None  # which is of the moment, and not kept


def test_what_has_not_ended_comes_back_in_the_order_in_which_it_came(
    store: JobStore, begin: Callable[[], tuple[JobStore, list[Job]]]
) -> None:
    jobs = [a_job(owner) for owner in ("zoe", "ada", "bob", "ada")]
    for job in jobs:
        store.add(job)
    store.save(replace(jobs[0], warnings=("late",)))
    store.save(ended(jobs[2]))
    assert [job.id for job in begin()[1]] == [jobs[0].id, jobs[1].id, jobs[3].id]


def test_who_begins_shuts_out_who_began_before(
    store: JobStore, begin: Callable[[], tuple[JobStore, list[Job]]]
) -> None:
    store.add(job := a_job())
    later, _ = begin()
    assert later.epoch == store.epoch + 1
    for write in (
        lambda: store.add(a_job()),
        lambda: store.save(ended(job)),
        lambda: store.expire(9.0, 0),
    ):
        with pytest.raises(Superseded):
            write()
    assert later.job(job.id) == job
    assert later.jobs("ada") == [job]


def test_a_key_gives_the_job_that_came_with_it_and_only_to_its_owner(store: JobStore) -> None:
    store.add(job := a_job("ada"), KEY)
    assert store.find("ada", KEY) == job.id
    assert store.find("bob", KEY) is None
    assert store.find("ada", RequestKey("other", "hash")) is None
    with pytest.raises(IdempotencyKeyReused) as caught:
        store.find("ada", RequestKey("key", "another hash"))
    assert (caught.value.code, caught.value.param) == ("idempotency_key_reused", "Idempotency-Key")
    store.add(a_job("bob"), KEY)


def test_a_new_job_takes_its_key_from_one_that_has_ended(store: JobStore) -> None:
    store.add(failed := a_job("ada"), KEY)
    store.save(replace(failed, status="failed", timestamps=Timestamps(created=0, ended=5.0)))
    store.add(other := a_job("bob"), KEY)
    with pytest.raises(QuotaExceeded):
        store.add(a_job("ada"), KEY, 1e-9)
    assert store.find("ada", KEY) == failed.id
    store.add(again := a_job("ada"), KEY)
    assert (store.find("ada", KEY), store.find("bob", KEY)) == (again.id, other.id)
    assert store.job(failed.id) is not None


def test_a_new_job_that_takes_the_key_of_a_failure_is_paid_for_once(store: JobStore) -> None:
    store.add(failed := a_job(), KEY, 1e9)
    store.save(replace(failed, status="failed", timestamps=replace(failed.timestamps, ended=5.0)))
    cost = failed.specs[0].cost
    store.add(again := a_job(), KEY, cost)
    assert store.spent("ada", again.timestamps.created) == cost
    store.save(replace(again, status="failed", timestamps=replace(again.timestamps, ended=6.0)))
    with pytest.raises(QuotaExceeded):  # what was refunded for it is counted again
        store.add(a_job(pictures=2), KEY, 1.5 * cost)
    assert store.spent("ada", again.timestamps.created) == cost
    store.add(a_job(pictures=3), None, 4 * cost)
    assert store.spent("ada", again.timestamps.created) == 4 * cost


def test_no_refund_leaves_less_than_nothing_spent(store: JobStore) -> None:
    store.add(uncounted := a_job(pictures=2), KEY)
    store.save(replace(uncounted, status="failed", timestamps=replace(uncounted.timestamps, ended=5.0)))
    store.add(a_job(), None, 1e9)
    store.add(again := a_job(), KEY, 1e9)
    assert store.spent("ada", again.timestamps.created) == again.specs[0].cost


def test_jobs_are_an_owners_newest_first(store: JobStore) -> None:
    mine = [a_job("ada") for _ in range(5)]
    for job in (*mine, a_job("bob")):
        store.add(job)
    assert store.jobs("ada", limit=3) == mine[:1:-1]
    assert store.jobs("nobody") == []


def test_results_that_are_too_old_expire_and_then_the_oldest_beyond_the_bytes(store: JobStore) -> None:
    jobs = [a_job() for _ in range(5)]
    for job in jobs:
        store.add(job)
    results = [ended(job, at=float(k), size=100_000) for k, job in enumerate(jobs[:4])]
    for job in results:
        store.save(job)
    expired = store.expire(ended_before=1.0, most_bytes=250_000)
    assert expired == {job.id: [image.name for image in job.images] for job in results[:2]}
    for job in results[:2]:
        with pytest.raises(Gone) as caught:
            store.job(job.id)
        assert caught.value.code == "gone"
    assert [job.id for job in store.jobs("ada")] == [job.id for job in jobs[:1:-1]]
    assert store.expire(ended_before=1.0, most_bytes=250_000) == {}


def test_what_jobs_without_pictures_take_is_bounded_too(store: JobStore) -> None:
    for at in range(20):
        store.add(job := a_job(spec=a_spec(prompt="a" * 1000)))
        store.save(replace(job, status="cancelled", timestamps=Timestamps(created=0, ended=float(at))))
    assert len(store.expire(ended_before=0.0, most_bytes=10_000)) > 10
    kept = store.jobs("ada")
    assert 1 < len(kept) < 10
    assert kept[0].timestamps.ended == 19


def test_a_commit_that_was_not_confirmed_is_told_from_nothing_written(store: JobStore) -> None:
    def lost(_: object) -> None:
        raise OperationalError("COMMIT", None, Exception("the server closed the connection"))

    event.listen(store._engine, "commit", lost)
    with pytest.raises(NotConfirmed, match="the server closed the connection"):
        store.add(a_job())
    event.remove(store._engine, "commit", lost)
    event.listen(store._engine, "begin", lost)
    with pytest.raises(StoreUnavailable):
        store.add(a_job())
    event.remove(store._engine, "begin", lost)


def test_confirming_by_writing_leaves_nothing_behind(store: JobStore) -> None:
    for _ in range(2):
        store.confirm(by_writing=True)
        with store._connected() as connection:
            assert connection.execute(text("SELECT count(*) FROM probe")).scalar() == 0


def test_what_confirms_by_writing_is_larger_than_the_largest_document() -> None:
    spec = a_spec(prompt="\1" * MAX_PROMPT, negative_prompt="\1" * MAX_PROMPT)
    job = a_job(pictures=10, spec=spec)
    images = tuple(a_result(spec, Lease(job.id, k)) for k in range(10))
    assert len(DOCUMENT.dump_json(replace(job, images=images))) < PROBE_BYTES


def test_what_is_withdrawn_was_never_there_and_costs_nothing(store: JobStore) -> None:
    job, done = a_job(), a_job()
    cost = job.specs[0].cost
    for each in (job, done):
        store.add(each, None, 1e9)
    store.save(ended(done))
    for each in (job, job, done):  # once is enough, and what has ended stays
        store.withdraw(each)
    assert [found.id for found in store.jobs("ada")] == [done.id]
    assert store.spent("ada", job.timestamps.created) == pytest.approx(cost)
    store.add(only := a_job("bob"), None, 1e9)
    store.withdraw(only)
    store.add(only, None, 1e9)  # though a row for the day is there, with nothing spent


def test_a_job_whose_result_has_expired_is_forgotten_in_the_end(store: JobStore) -> None:
    jobs = [a_job() for _ in range(3)]
    for at, job in enumerate(jobs):
        store.add(job)
        store.save(ended(job, at=float(at)))
    store.expire(ended_before=2.0, most_bytes=2000)
    store.forget(ended_before=1.0)
    assert store.job(jobs[0].id) is None
    with pytest.raises(Gone):
        store.job(jobs[1].id)
    store.forget(ended_before=9.0)
    assert store.job(jobs[1].id) is None
    assert store.job(jobs[2].id) is not None


def test_jobs_are_found_by_status_and_from_a_job_on(store: JobStore) -> None:
    jobs = [a_job() for _ in range(4)]
    for job in (*jobs, a_job("bob")):
        store.add(job)
    for job in jobs[1:3]:
        store.save(ended(job))
    newest_first = [job.id for job in jobs[::-1]]
    assert [job.id for job in store.jobs("ada")] == newest_first
    assert [job.id for job in store.jobs("ada", limit=2)] == newest_first[:2]
    assert [job.id for job in store.jobs("ada", after=newest_first[1])] == newest_first[2:]
    assert [job.id for job in store.jobs("ada", "succeeded")] == newest_first[1:3]
    assert [job.id for job in store.jobs("ada", "succeeded", after=newest_first[1])] == newest_first[2:3]
    assert store.jobs("bob", after=newest_first[0]) == []


def test_a_days_work_of_an_owner_is_counted_up_to_a_limit(store: JobStore) -> None:
    job = a_job(pictures=2)
    cost = sum(spec.cost for spec in job.specs)
    day = 20_000
    later = replace(a_job(pictures=2), timestamps=Timestamps(created=(day + 0.75) * DAY_S))
    next_day = replace(a_job(pictures=2), timestamps=Timestamps(created=(day + 1) * DAY_S))
    store.add(replace(job, timestamps=Timestamps(created=(day + 0.5) * DAY_S)), None, 1.5 * cost)
    assert store.spent("ada", (day + 0.6) * DAY_S) == cost
    assert store.spent("ada", (day + 1) * DAY_S) == store.spent("bob", day * DAY_S) == 0
    with pytest.raises(QuotaExceeded) as caught:
        store.add(later, None, 1.5 * cost)
    assert caught.value.retry_after_s == DAY_S // 4
    assert store.job(later.id) is None
    store.add(later, None, 2 * cost)
    assert store.spent("ada", day * DAY_S) == 2 * cost
    store.add(next_day, None, cost)
    store.forget((day + 1) * DAY_S)
    assert (store.spent("ada", day * DAY_S), store.spent("ada", next_day.timestamps.created)) == (0, cost)


def test_a_database_of_the_first_schema_is_brought_up_to_date(
    store: JobStore, begin: Callable[[], tuple[JobStore, list[Job]]], database_url: str
) -> None:
    done = ended(a_job())
    for job in (done, a_job()):
        store.add(job)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs DROP COLUMN status"))
        connection.execute(text("DROP TABLE usage"))
        connection.execute(text("UPDATE service SET schema_version = 1"))
    engine.dispose()
    later, unfinished = begin()
    assert len(unfinished) == 1
    assert [job.id for job in later.jobs("ada", "succeeded")] == [done.id]
    later.add(a_job(), None, 1e9)
    assert len(begin()[1]) == 2


def test_an_orphan_is_a_file_of_a_job_that_has_ended_which_is_not_its_picture(store: JobStore) -> None:
    jobs = [ended(a_job(), size=100_000) for _ in range(3)]
    for job in jobs:
        store.add(job)
    store.expire(ended_before=0.0, most_bytes=250_000)  # the first one's result is gone
    store.add(unfinished := a_job())
    [gone], *pictures = ([image.name for image in job.images] for job in jobs)
    known = [name for names in pictures for name in names]
    orphans = [gone, known[0].replace("-0-0-1.", "-0-0-2."), f".{known[1]}.0123abcd.partial"]
    elsewhere = [f"{unfinished.id}-0-1-1.png", f"job_{'f' * 32}-0-1-1.png"]  # still made; of another database
    assert store.orphans([*orphans, *known, *elsewhere]) == orphans
    assert store.orphans([]) == []


def test_there_is_no_unknown_job(store: JobStore) -> None:
    assert store.job("job_0") is None
    assert store.job("job_\0") is None  # PostgreSQL would call that an error


def test_a_postgresql_that_says_nothing_is_not_waited_for_for_ever() -> None:
    store = JobStore("postgresql+psycopg://db.example.org/darkroom?connect_timeout=3")
    assert dict(store._engine.url.query) == {"connect_timeout": "3", "tcp_user_timeout": "10000"}


def test_a_database_that_a_newer_darkroom_wrote_is_refused(
    store: JobStore, begin: Callable[[], object], database_url: str
) -> None:
    store.add(a_job())
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE service SET schema_version = {SCHEMA_VERSION + 1}"))
    engine.dispose()
    with pytest.raises(StoreUnavailable, match="newer Darkroom"):
        begin()


def test_a_database_that_cannot_be_opened_is_named_with_the_reason_and_without_the_password(tmp_path: Path) -> None:
    folder = f"sqlite:///{tmp_path}"
    with pytest.raises(StoreUnavailable) as caught:
        JobStore(folder).begin()
    assert folder in caught.value.reason
    assert "unable to open database file" in caught.value.reason
    with pytest.raises(StoreUnavailable) as caught:
        JobStore("postgresql+psycopg://ada:secret@127.0.0.1:1/darkroom").begin()
    assert "ada:***@127.0.0.1:1/darkroom" in caught.value.reason
    assert "secret" not in caught.value.reason


@pytest.mark.parametrize("url", ["", "nonsense", "oracle9i://host/db"])
def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="database_url cannot be used"):
        JobStore(url)


def test_a_commit_is_on_the_disk(tmp_path: Path) -> None:
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    store.begin()
    with store._connected() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"


# -- rows that are damaged

BROKEN = {
    "no JSON": "a circle",
    "no job": "{}",
    "no status": "$.status",
    "another job's": "$.id",
    "no images": "$.specs",
    "no width": "#width=0",
    "a width beyond any": "#width=100000",
    "steps beyond any": "#num_inference_steps=1000000000",
    "a second pass beyond any": '#hires={"scale":2,"strength":1,"steps":8,"width":100000,"height":64}',
    "a family of another version": '#family="flux9"',
    "no number": "#guidance_scale=NaN",
    "no end": "#guidance_scale=Infinity",
}


def spoil(store: JobStore, job: Job, how: str = BROKEN["no JSON"]) -> None:
    """Replace a job's document, or one value in it."""
    if how.startswith("#"):  # a value of its first spec, as it is
        name, _, value = how[1:].partition("=")
        how = re.sub(rf'"{name}":[^,}}]+', f'"{name}":{value}', DOCUMENT.dump_json(job).decode(), count=1)
    if how.startswith("$."):
        how = json.dumps(json.loads(DOCUMENT.dump_json(job)) | {how[2:]: [] if how == "$.specs" else ""})
    assign(store, job, document=how)


def assign(store: JobStore, job: Job, **values: object) -> None:
    """Put values into columns of a job's row."""
    columns = ", ".join(f"{name} = :{name}" for name in values)
    with store._connected() as connection:
        connection.execute(text(f"UPDATE jobs SET {columns} WHERE id = :job"), values | {"job": job.id})


@pytest.mark.parametrize("how", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_is_no_job_and_the_log_has_its_id_and_the_reason(
    store: JobStore, begin: Callable[[], tuple[JobStore, list[Job]]], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [a_job() for _ in range(2)]
    for job in jobs:
        store.add(job, RequestKey(job.id, "hash"))
    spoil(store, jobs[0], how)
    later, unfinished = begin()  # the start goes on
    assert [job.id for job in unfinished] == [jobs[1].id]
    assert caplog.text.count(f"the record of {jobs[0].id} in the table jobs cannot be read") == 1
    assert "a circle" not in caplog.text
    assert [job.id for job in later.jobs("ada")] == [jobs[1].id]
    with pytest.raises(UnreadableJob, match=f"The record of {jobs[0].id} cannot be read") as caught:
        later.job(jobs[0].id)
    assert caught.value.code == "unreadable_job"
    assert later.find("ada", RequestKey(jobs[0].id, "hash")) == jobs[0].id
    with later._connected() as connection:  # nothing is lost without a word
        kept = connection.scalar(text("SELECT document FROM jobs WHERE id = :id"), {"id": jobs[0].id})
    assert kept is not None
    later.withdraw(jobs[0])
    assert later.job(jobs[0].id) is None


def test_an_open_row_without_a_document_is_a_broken_one(
    store: JobStore, begin: Callable[[], tuple[JobStore, list[Job]]]
) -> None:
    store.add(job := a_job())
    assign(store, job, document=None)
    later, unfinished = begin()
    assert (unfinished, later.jobs("ada")) == ([], [])
    with pytest.raises(UnreadableJob):
        later.job(job.id)


def test_broken_rows_make_no_page_of_a_list_shorter(store: JobStore) -> None:
    jobs = [a_job() for _ in range(9)]
    for job in jobs:
        store.add(job)
    for broken in (0, 3, 4, 5, 8):
        spoil(store, jobs[broken])
    first = store.jobs("ada", limit=3)
    assert [job.id for job in first] == [jobs[k].id for k in (7, 6, 2)]
    assert [job.id for job in store.jobs("ada", limit=3, after=first[-1].id)] == [jobs[1].id]


def test_a_broken_row_that_has_ended_expires_like_any_other_and_its_images_are_orphans_then(store: JobStore) -> None:
    broken, whole = (ended(a_job(), at=at) for at in (1.0, 2.0))
    for job in (broken, whole):
        store.add(job)
    spoil(store, broken)
    names = [image.name for job in (broken, whole) for image in job.images]
    assert store.orphans(names) == []
    assert store.expire(ended_before=0.5, most_bytes=10**9) == {}
    assert store.expire(ended_before=9.0, most_bytes=10**9) == {broken.id: [], whole.id: names[1:]}
    assert store.orphans(names) == names
    with pytest.raises(Gone):
        store.job(broken.id)


def test_columns_of_sqlite_that_hold_no_number_end_no_expiry(tmp_path: Path) -> None:
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    store.begin()
    odd, whole = (ended(a_job(), at=at, size=1000) for at in (1.0, 2.0))
    for job in (odd, whole):
        store.add(job, None, 1e9)
    assign(store, odd, ended="yesterday", size="much", status=None)
    with store._connected() as connection:
        connection.execute(text("UPDATE usage SET cost = 'much'"))
    assert [job.id for job in store.jobs("ada")] == [whole.id, odd.id]
    assert store.expire(ended_before=1.5, most_bytes=10**9).keys() == {odd.id}
    store.forget(ended_before=1.5)
    assert store.job(odd.id) is None
    store.add(a_job(), None, 1e9)


def test_a_text_that_is_no_utf_8_ends_no_list(tmp_path: Path) -> None:
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    store.begin()
    jobs = [a_job() for _ in range(2)]
    for job in jobs:
        store.add(job)
    with store._connected() as connection:
        spoilt = "UPDATE jobs SET document = CAST(x'7bff' AS TEXT) WHERE id = :id"
        connection.execute(text(spoilt), {"id": jobs[0].id})
    assert [job.id for job in store.jobs("ada")] == [jobs[1].id]


def test_a_broken_row_of_the_first_schema_ends_no_upgrade(
    store: JobStore, begin: Callable[[], tuple[JobStore, list[Job]]]
) -> None:
    jobs = [ended(a_job()) for _ in range(2)]
    for job in jobs:
        store.add(job)
    spoil(store, jobs[0])
    with store._connected() as connection:
        connection.execute(text("ALTER TABLE jobs DROP COLUMN status"))
        connection.execute(text("UPDATE service SET schema_version = 1"))
    assert [job.id for job in begin()[0].jobs("ada", "succeeded")] == [jobs[1].id]


@pytest.mark.parametrize("damage", ["epoch = 'first'", "schema_version = 'two'"])
def test_a_service_row_that_is_damaged_is_refused_in_words(tmp_path: Path, damage: str) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    store = JobStore(url)
    store.begin()
    with store._connected() as connection:
        connection.execute(text(f"UPDATE service SET {damage}"))
    with pytest.raises(StoreUnavailable, match=r"is damaged: its table service must hold one row.* Restore a backup"):
        JobStore(url).begin()


@pytest.mark.parametrize("size", [10**15, 2**63 - 1, -1])
def test_a_size_that_no_record_can_have_expires_no_other(
    store: JobStore, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [ended(a_job(), at=number) for number in range(3)]
    for job in jobs:
        store.add(job)
    assign(store, jobs[-1], size=size)
    assert store.expire(ended_before=-1.0, most_bytes=10 * 2**30) == {}
    assert "counts nothing" in caplog.text


def test_a_record_of_another_owner_is_in_no_list(store: JobStore) -> None:
    store.add(job := a_job("ada"))
    store.add(other := a_job("ada"))
    assign(store, job, owner="bob")
    assert [found.id for found in store.jobs("ada")] == [other.id]
    assert store.jobs("bob") == []
