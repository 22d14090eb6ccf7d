"""Jobs on disk: what was accepted outlives every process. SQLite in `state_dir` by default, or PostgreSQL.

One table: the job is its own document, and columns hold what queries need. Writes are conditional on the *epoch*. Each
Dispatcher that begins raises it; from then on those before it can write nothing, wherever they still run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from deployments.schema import Job
from models.errors import Gone, KeyReused, QuotaExceeded, StoreUnavailable, Superseded

SCHEMA_VERSION = 2
BUSY_S = 10  # how long another writer is waited for
POSTGRESQL = {"connect_timeout": "10", "tcp_user_timeout": "10000"}  # s, ms: a host that is gone says nothing
DAY_S = 86400
PROBE_BYTES = 2**20  # more than the largest document: ten images, each with its prompts twice, all characters escaped

DOCUMENT: TypeAdapter[Job] = TypeAdapter(Job)
Number = BigInteger().with_variant(Integer, "sqlite")  # only an INTEGER key numbers SQLite's rows

metadata = MetaData()
jobs = Table(
    "jobs",
    metadata,
    Column("number", Number, primary_key=True),  # the order in which they came
    Column("id", String(40), nullable=False, unique=True),
    Column("owner", String(200), nullable=False, index=True),
    Column("request_key", String(255)),
    Column("request_hash", String(64)),
    Column("status", String(16)),
    Column("ended", Float, index=True),  # seconds since 1970
    Column("size", BigInteger, nullable=False, default=0),  # bytes of its pictures and its document
    Column("document", Text),  # none once its result has expired
    UniqueConstraint("owner", "request_key"),
)
service = Table(
    "service",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
)
usage = Table(
    "usage",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("day", Integer, primary_key=True),  # since 1970, UTC
    Column("cost", Float, nullable=False),  # of the jobs accepted, in `ImageSpec.cost`
)
probe = Table(
    "probe",
    metadata,
    Column("id", Number, primary_key=True),
    Column("filling", Text, nullable=False),
)


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

    Any of them raises `StoreUnavailable` where the database cannot be reached or written.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            self._engine = _engine(self._url)
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
            unfinished = select(jobs.c.document).where(jobs.c.ended.is_(None)).order_by(jobs.c.number)
            return [DOCUMENT.validate_json(document) for document in connection.scalars(unfinished)]

    def find(self, owner: str, request_key: RequestKey) -> str | None:
        """Return the id of the job that was accepted under a key.

        Raises:
            KeyReused: it was for another request.
        """
        with self._connected() as connection:
            same = (jobs.c.owner == owner) & (jobs.c.request_key == request_key.key)
            found = connection.execute(select(jobs.c.id, jobs.c.request_hash).where(same)).one_or_none()
        if found is None:
            return None
        if found.request_hash != request_key.request_hash:
            raise KeyReused("Idempotency-Key: this key came with another request before.", "Idempotency-Key")
        return found.id

    def add(self, job: Job, request_key: RequestKey | None = None, max_cost_per_day: float | None = None) -> None:
        """Write a new job, unless that would be more work of its owner in a day (UTC) than is allowed.

        Raises:
            QuotaExceeded, Superseded, StoreUnavailable: nothing was written.
            NotConfirmed: it may have been.
        """
        row = _row(job) | {"id": job.id, "owner": job.owner}
        if request_key is not None:
            row |= {"request_key": request_key.key, "request_hash": request_key.request_hash}
        inserted = False
        try:
            with self._in_charge() as connection:
                if max_cost_per_day is not None:
                    _spend(connection, job, max_cost_per_day)
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
                day = _of(job.owner, _day(job.timestamps.created))
                connection.execute(update(usage).where(*day).values(cost=usage.c.cost - _cost(job)))

    def spent(self, owner: str, now: float) -> float:
        """Return the work that an owner's jobs of this day (UTC) are, of those that were counted."""
        with self._connected() as connection:
            return _spent(connection, owner, _day(now))

    def save(self, job: Job) -> None:
        """Write what has become of a job. Raises Superseded where another Dispatcher has taken over."""
        with self._in_charge() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(_row(job)))

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
        """
        if "\0" in job_id:  # which PostgreSQL takes in no text, and no id has
            return None
        with self._connected() as connection:
            found = connection.execute(select(jobs.c.document).where(jobs.c.id == job_id)).one_or_none()
        if found is None:
            return None
        if found.document is None:
            raise Gone(f"The result of {job_id} has expired.")
        return DOCUMENT.validate_json(found.document)

    def jobs(self, owner: str, status: str | None = None, limit: int = 100, after: str | None = None) -> list[Job]:
        """Return an owner's jobs, newest first: those of one status, and those that came before another job."""
        chosen = select(jobs.c.document).where(jobs.c.owner == owner, jobs.c.document.is_not(None))
        if status is not None:
            chosen = chosen.where(jobs.c.status == status)
        if after is not None:
            mark = select(jobs.c.number).where(jobs.c.id == after, jobs.c.owner == owner).scalar_subquery()
            chosen = chosen.where(jobs.c.number < mark)
        with self._connected() as connection:
            found = connection.scalars(chosen.order_by(jobs.c.number.desc()).limit(limit))
            return [DOCUMENT.validate_json(document) for document in found]

    def expire(self, ended_before: float, most_bytes: int) -> dict[str, list[str]]:
        """Forget the results of jobs that ended before a moment, and of the oldest beyond so many bytes.

        Returns for each of these jobs the names of its pictures, which nothing refers to any more.
        """
        kept = jobs.c.ended.is_not(None) & jobs.c.document.is_not(None)
        newest_first = (jobs.c.ended.desc(), jobs.c.number.desc())
        newest = select(jobs.c.number, jobs.c.ended, jobs.c.size).where(kept).order_by(*newest_first)
        names: dict[str, list[str]] = {}
        with self._in_charge() as connection:
            total, expired = 0, []
            for row in connection.execute(newest):
                total += row.size
                if row.ended < ended_before or total > most_bytes:
                    expired.append(row.number)
            for number in expired:
                job = DOCUMENT.validate_json(
                    str(connection.scalar(select(jobs.c.document).where(jobs.c.number == number)))
                )
                names[job.id] = [image.name for image in job.images]
                connection.execute(update(jobs).where(jobs.c.number == number).values(document=None, size=0))
        return names

    def forget(self, ended_before: float) -> None:
        """Forget that jobs which ended before a moment ever were, where their results have expired; and what was
        spent before."""
        with self._in_charge() as connection:
            connection.execute(delete(jobs).where(jobs.c.document.is_(None), jobs.c.ended < ended_before))
            connection.execute(delete(usage).where(usage.c.day < _day(ended_before)))

    def strays(self, names: Sequence[str]) -> list[str]:
        """Return those files of jobs that have ended here which are not their pictures: attempts came to nothing."""
        jobs_of = {name: name.lstrip(".").rsplit("-", 3)[0] for name in names}
        ended = select(jobs.c.id, jobs.c.document).where(
            jobs.c.id.in_(set(jobs_of.values())), jobs.c.ended.is_not(None)
        )
        with self._connected() as connection:
            documents = {row.id: row.document for row in connection.execute(ended)}
        results = [DOCUMENT.validate_json(document) for document in documents.values() if document is not None]
        pictures = {image.name for job in results for image in job.images}
        return [name for name in names if jobs_of[name] in documents and name not in pictures]

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
        version = connection.scalar(select(service.c.schema_version))
        if version is not None and version > SCHEMA_VERSION:
            raise StoreUnavailable(
                f"The database {self._url.render_as_string()} was written by a newer Darkroom (schema {version}, this "
                f"one knows {SCHEMA_VERSION}): upgrade, or choose another database_url."
            )


def _row(job: Job) -> dict[str, Any]:
    """What changes of a job. Places and progress are of the moment: they are not kept."""
    document = DOCUMENT.dump_json(replace(job, queue=None, progress=None))
    size = len(document) + sum(image.size for image in job.images)
    return {"status": job.status, "ended": job.timestamps.ended, "size": size, "document": document.decode()}


def _spend(connection: Connection, job: Job, most: float) -> None:
    """Count a job's work. Raises QuotaExceeded where it is too much for its owner's day."""
    day, cost = _day(job.timestamps.created), _cost(job)
    spent = _spent(connection, job.owner, day)
    if spent + cost > most:
        raise QuotaExceeded(
            f"This key may ask for {most:g} megapixel steps a day; {spent:.4g} are spent, and this would be {cost:.4g} "
            "more. Nothing was queued.",
            ceil((day + 1) * DAY_S - job.timestamps.created),
        )
    if spent:
        connection.execute(update(usage).where(*_of(job.owner, day)).values(cost=spent + cost))
    else:
        connection.execute(usage.insert().values(owner=job.owner, day=day, cost=cost))


def _cost(job: Job) -> float:
    return sum(spec.cost for spec in job.specs)


def _spent(connection: Connection, owner: str, day: int) -> float:
    return connection.scalar(select(usage.c.cost).where(*_of(owner, day))) or 0.0


def _of(owner: str, day: int) -> tuple[ColumnElement[bool], ...]:
    return usage.c.owner == owner, usage.c.day == day


def _day(moment: float) -> int:
    return int(moment // DAY_S)


def _upgrade(connection: Connection) -> None:
    """Bring what an older Darkroom has written up to date."""
    if connection.scalar(select(service.c.schema_version)) == 1:  # which had no column for the status
        connection.execute(DDL("ALTER TABLE jobs ADD COLUMN status VARCHAR(16)"))
        documents = select(jobs.c.number, jobs.c.document).where(jobs.c.document.is_not(None))
        for number, document in connection.execute(documents).all():
            status = DOCUMENT.validate_json(document).status
            connection.execute(update(jobs).where(jobs.c.number == number).values(status=status))
        connection.execute(update(service).values(schema_version=SCHEMA_VERSION))


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        own = POSTGRESQL if url.get_backend_name() == "postgresql" else {}
        return create_engine(url.set(query=own | dict(url.query)), pool_pre_ping=True)
    in_memory = url.database in (None, "", ":memory:")
    if not in_memory:
        Path(url.database or "").parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    arguments = {"check_same_thread": False, "timeout": BUSY_S, "isolation_level": None}
    engine = create_engine(url, connect_args=arguments, poolclass=StaticPool if in_memory else None)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not on its way there

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's sqlite3 would begin at the first write: too late

    return engine
