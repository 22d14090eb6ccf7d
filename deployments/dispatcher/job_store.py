"""Jobs on disk: what was accepted outlives every process. SQLite in `state_dir` by default, or PostgreSQL.

A job is a document, with columns for what queries need (`job_tables`, `job_documents`). Writes are conditional on the
*epoch*. Each Dispatcher that begins raises it; from then on those before it can write nothing, wherever they still run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import DDL, BigInteger, Connection, Float, cast, delete, inspect, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from deployments.dispatcher import input_rows, quota
from deployments.dispatcher.job_documents import read_job, readable_jobs, recorded_bytes, row_of
from deployments.dispatcher.job_tables import create_job_engine, jobs, metadata, probe, service
from deployments.errors import Gone, IdempotencyKeyReused, StoreUnavailable, Superseded, UnreadableJob
from deployments.jobs import Job

SCHEMA_VERSION = 4
PROBE_BYTES = 2**20  # more than the largest document: ten images, each with its prompts twice, all characters escaped

P = ParamSpec("P")
T = TypeVar("T")

# SQLite keeps any value in any column: cast, what is not a number is 0.
_ENDED = cast(jobs.c.ended, Float).label("ended")
_SIZE = cast(jobs.c.size, BigInteger).label("size")


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A client's `Idempotency-Key`, and the hash of the request that it came with."""

    key: str
    request_hash: str


class NotConfirmed(Exception):
    """A commit failed, which may have happened or not: the connection was lost in it, or the disk is full."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class JobStore:
    """The database. Calls block, for about the time of one disk write.

    Any of them raises `StoreUnavailable` where the database cannot be reached or written. A row whose document cannot
    be read is logged whenever it is read, stays as it is until it expires, and is left out of what is returned.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            self._engine = create_job_engine(self._url)
        except (ArgumentError, NoSuchModuleError, ImportError, OSError) as error:
            raise StoreUnavailable(f"database_url cannot be used: {error}") from error
        self.epoch = 0

    def begin(self) -> list[Job]:
        """Take over from every Dispatcher before; return the jobs that have not ended, in their old order.

        Raises:
            StoreUnavailable: also where a newer Darkroom has written the database.
        """
        with self._connected() as connection:
            if inspect(connection).has_table(service.name):
                self._check_version(connection)
                _upgrade(connection)
            metadata.create_all(connection)
            found = connection.execute(select(service).with_for_update()).one_or_none()
            if found is None:
                connection.execute(service.insert().values(id=1, schema_version=SCHEMA_VERSION, epoch=1))
            else:
                connection.execute(update(service).values(epoch=found.epoch + 1))
            self.epoch = 1 if found is None else found.epoch + 1
            unfinished = select(jobs.c.id, jobs.c.document).where(jobs.c.ended.is_(None)).order_by(jobs.c.number)
            return readable_jobs(connection.execute(unfinished))

    def find(self, owner: str, request_key: RequestKey) -> str | None:
        """Return the id of the job that was accepted under a key.

        Raises:
            IdempotencyKeyReused: it was for another request.
        """
        with self._connected() as connection:
            same = (jobs.c.owner == owner) & (jobs.c.request_key == request_key.key)
            found = connection.execute(select(jobs.c.id, jobs.c.request_hash).where(same)).one_or_none()
        if found is None:
            return None
        if found.request_hash != request_key.request_hash:
            raise IdempotencyKeyReused("Idempotency-Key: this key came with another request before.", "Idempotency-Key")
        return found.id

    def add(
        self,
        job: Job,
        request_key: RequestKey | None = None,
        max_cost_per_day: float | None = None,
        inputs: Mapping[str, str] = {},
    ) -> None:
        """Write a new job, unless that would be more work of its owner in a day (UTC) than is allowed.

        A job that has ended and was accepted under the same key has no key from then on, and its work is not counted.
        The `inputs` that its fields name are kept until it has ended: field -> id of an input of its owner.

        Raises:
            InputNotFound, InvalidRequest, QuotaExceeded, Superseded, StoreUnavailable: nothing was written.
            NotConfirmed: it may have been.
        """
        row = row_of(job) | {"id": job.id, "owner": job.owner}
        if request_key is not None:
            row |= {"request_key": request_key.key, "request_hash": request_key.request_hash}
        inserted = False
        try:
            with self._in_charge() as connection:
                if request_key is not None:
                    _release_key(connection, job.owner, request_key.key)
                if max_cost_per_day is not None:
                    quota.spend(connection, job, max_cost_per_day)
                input_rows.pin(connection, job, inputs)
                connection.execute(jobs.insert().values(row))
                inserted = True
        except StoreUnavailable as error:
            if inserted:
                raise NotConfirmed(error.reason) from error
            raise

    def withdraw(self, job: Job) -> None:
        """Take a job back, and what it spent, if it is here; one that has ended stays. Raises Superseded."""
        with self._in_charge() as connection:
            if connection.execute(delete(jobs).where(jobs.c.id == job.id, jobs.c.ended.is_(None))).rowcount:
                quota.refund(connection, job)
                input_rows.release(connection, job.id)

    def spent(self, owner: str, now: float) -> float:
        """Return the work that an owner's jobs of this day (UTC) are, of those that were counted."""
        with self._connected() as connection:
            return quota.spent(connection, owner, now)

    def save(self, job: Job) -> None:
        """Write what has become of a job. Raises Superseded where another Dispatcher has taken over."""
        with self._in_charge() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(row_of(job)))
            if job.ended:
                input_rows.release(connection, job.id)

    def run(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns, in one transaction that nobody can take over in. Raises Superseded."""
        with self._in_charge() as connection:
            return work(connection, *args, **kwargs)

    def confirm(self, *, by_writing: bool = False) -> None:
        """Raise Superseded if another Dispatcher has taken over; with `by_writing`, StoreUnavailable if no job could be
        added now."""
        with self._in_charge() as connection:
            if by_writing:  # a new row: on a full disk a change of an old one would still succeed
                connection.execute(probe.insert().values(filling=token_hex(PROBE_BYTES // 2)))  # nothing compresses it
        if by_writing:
            with self._in_charge() as connection:
                connection.execute(delete(probe))

    def job(self, job_id: str) -> Job | None:
        """Return a job as it was saved last; None if there is none.

        Raises:
            Gone: its result has expired.
            UnreadableJob: its document cannot be read.
        """
        if "\0" in job_id:  # which PostgreSQL takes in no text, and no id has
            return None
        with self._connected() as connection:
            chosen = select(jobs.c.id, jobs.c.document, jobs.c.ended).where(jobs.c.id == job_id)
            found = connection.execute(chosen).one_or_none()
        if found is None:
            return None
        if found.document is None and found.ended is not None:
            raise Gone(f"The result of {job_id} has expired.")
        job = read_job(found.id, found.document)
        if job is None:
            raise UnreadableJob(f"The record of {job_id} cannot be read. The log of the service has the reason.")
        return job

    def jobs(self, owner: str, status: str | None = None, limit: int = 100, after: str | None = None) -> list[Job]:
        """Return an owner's jobs, newest first: those of one status, and those that came before another job."""
        chosen = select(jobs.c.number, jobs.c.id, jobs.c.document).order_by(jobs.c.number.desc())
        chosen = chosen.where(jobs.c.owner == owner, jobs.c.document.is_not(None))
        if status is not None:
            chosen = chosen.where(jobs.c.status == status)
        if after is not None:
            mark = select(jobs.c.number).where(jobs.c.id == after, jobs.c.owner == owner).scalar_subquery()
            chosen = chosen.where(jobs.c.number < mark)
        found: list[Job] = []
        with self._connected() as connection:
            while (wanted := limit - len(found)) > 0:
                rows = connection.execute(chosen.limit(wanted)).all()
                found += [job for job in readable_jobs(rows) if job.owner == owner]
                if len(rows) < wanted:
                    break
                chosen = chosen.where(jobs.c.number < rows[-1].number)  # in place of those that cannot be read
        return found

    def open_before(self, owner: str, after: str) -> set[str]:
        """Return the ids of an owner's jobs that have not ended and came before another job of theirs."""
        mark = select(jobs.c.number).where(jobs.c.id == after, jobs.c.owner == owner).scalar_subquery()
        earlier = select(jobs.c.id).where(jobs.c.owner == owner, jobs.c.ended.is_(None), jobs.c.number < mark)
        with self._connected() as connection:
            return set(connection.scalars(earlier))

    def expire(self, ended_before: float, most_bytes: int) -> dict[str, list[str]]:
        """Forget the results of jobs that ended before a moment, and of the oldest beyond so many bytes.

        Returns for each of these jobs the names of its images, which nothing refers to any more; none if its document
        cannot be read: its images are orphans from then on.
        """
        kept = jobs.c.ended.is_not(None) & jobs.c.document.is_not(None)
        newest_first = (jobs.c.ended.desc(), jobs.c.number.desc())
        newest = select(jobs.c.number, _ENDED, _SIZE).where(kept).order_by(*newest_first)
        names: dict[str, list[str]] = {}
        with self._in_charge() as connection:
            total, expired = 0, []
            for row in connection.execute(newest):
                total += recorded_bytes(row)
                if row.ended < ended_before or total > most_bytes:
                    expired.append(row)
            for row in expired:
                this = jobs.c.number == row.number
                [(job_id, document)] = connection.execute(select(jobs.c.id, jobs.c.document).where(this))
                job = read_job(job_id, document)
                names[job_id] = [image.name for image in job.images] if job else []
                connection.execute(update(jobs).where(this).values(document=None, size=0, ended=row.ended))
        return names

    def forget(self, ended_before: float) -> None:
        """Forget that jobs which ended before a moment ever were, where their results have expired; and what was
        spent before."""
        with self._in_charge() as connection:
            connection.execute(delete(jobs).where(jobs.c.document.is_(None), jobs.c.ended < ended_before))
            quota.forget_before(connection, ended_before)

    def orphans(self, names: Sequence[str]) -> list[str]:
        """Return those files of jobs that have ended which are not their images: they are of attempts that failed."""
        jobs_of = {name: name.lstrip(".").rsplit("-", 3)[0] for name in names}
        ended = select(jobs.c.id, jobs.c.document).where(
            jobs.c.id.in_(set(jobs_of.values())), jobs.c.ended.is_not(None)
        )
        with self._connected() as connection:
            rows = connection.execute(ended).all()
        images: dict[str, set[str]] = {row.id: set() for row in rows if row.document is None}
        readable = readable_jobs(row for row in rows if row.document is not None)  # of the others nothing is known
        images |= {job.id: {image.name for image in job.images} for job in readable}
        return [name for name in names if name not in images.get(jobs_of[name], {name})]

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """One transaction."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            reason = str(error.orig).strip()
            raise StoreUnavailable(f"The database {self._url.render_as_string()} cannot be used: {reason}") from error

    @contextmanager
    def _in_charge(self) -> Iterator[Connection]:
        """One transaction that nobody can take over in."""
        with self._connected() as connection:
            epoch = connection.scalar(select(service.c.epoch).with_for_update(read=True))
            if epoch != self.epoch:
                raise Superseded
            yield connection

    def _check_version(self, connection: Connection) -> None:
        rows = connection.execute(select(service.c.schema_version, service.c.epoch)).all()
        if len(rows) > 1 or not all(isinstance(number, int) for row in rows for number in row):
            raise StoreUnavailable(
                f"The database {self._url.render_as_string()} is damaged: its table service must hold one row of whole "
                f"numbers, schema_version and epoch; it holds {[tuple(row) for row in rows]}. Restore a backup."
            )
        version = rows[0].schema_version if rows else None
        if version is not None and version > SCHEMA_VERSION:
            raise StoreUnavailable(
                f"The database {self._url.render_as_string()} was written by a newer Darkroom (schema {version}, this "
                f"one knows {SCHEMA_VERSION}): upgrade, or choose another database_url."
            )


def _release_key(connection: Connection, owner: str, key: str) -> None:
    """Take a key from the job that has ended under it, and refund that: its owner pays for the next one."""
    same = (jobs.c.owner == owner) & (jobs.c.request_key == key) & jobs.c.ended.is_not(None)
    for job in readable_jobs(connection.execute(select(jobs.c.id, jobs.c.document).where(same)).all()):
        quota.refund(connection, job)
    connection.execute(update(jobs).where(same).values(request_key=None, request_hash=None))


def _upgrade(connection: Connection) -> None:
    """Bring what an older Darkroom has written up to date."""
    version = connection.scalar(select(service.c.schema_version))
    if version == 1:  # which had no column for the status
        connection.execute(DDL("ALTER TABLE jobs ADD COLUMN status VARCHAR(16)"))
        documents = select(jobs.c.id, jobs.c.document).where(jobs.c.document.is_not(None))
        for job in readable_jobs(connection.execute(documents).all()):
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(status=job.status))
    if version == 3:  # whose inputs had no column for what keeps them from being masks
        connection.execute(DDL("ALTER TABLE inputs ADD COLUMN mask_flaw VARCHAR(16)"))
    if version != SCHEMA_VERSION:  # tables that are new, as those of inputs in the third, are created with all others
        connection.execute(update(service).values(schema_version=SCHEMA_VERSION))
