"""The tables of the database of jobs, and how a connection to it is set up. SQLite or PostgreSQL."""

from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
)
from sqlalchemy.engine import URL
from sqlalchemy.pool import StaticPool

BUSY_TIMEOUT_S = 10  # how long a writer waits for another one
POSTGRESQL = {"connect_timeout": "10", "tcp_user_timeout": "10000"}  # s, ms: a host that is gone sends no error

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
inputs = Table(
    "inputs",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("digest", String(64), primary_key=True),  # SHA-256 of its bytes
    Column("size", BigInteger, nullable=False),  # bytes
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("created", Float, nullable=False),  # seconds since 1970
    Column("expires", Float, nullable=False, index=True),
    Column("mask_flaw", String(16)),  # what keeps it from being a mask, if that is known
)
pins = Table(
    "pins",  # inputs that jobs need which have not ended
    metadata,
    Column("job", String(40), primary_key=True),  # its id
    Column("owner", String(200), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Index("pins_of_input", "owner", "digest"),
)
probe = Table(
    "probe",
    metadata,
    Column("id", Number, primary_key=True),
    Column("filling", Text, nullable=False),
)


def create_job_engine(url: URL) -> Engine:
    """Return the engine of a database, with durable commits and bounded waits; SQLite's folder is created."""
    if url.get_backend_name() != "sqlite":
        own = POSTGRESQL if url.get_backend_name() == "postgresql" else {}
        return create_engine(url.set(query=own | dict(url.query)), pool_pre_ping=True)
    in_memory = url.database in (None, "", ":memory:")
    if not in_memory:
        Path(url.database or "").parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    arguments = {"check_same_thread": False, "timeout": BUSY_TIMEOUT_S, "isolation_level": None}
    engine = create_engine(url, connect_args=arguments, poolclass=StaticPool if in_memory else None)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.text_factory = lambda text: text.decode(errors="replace")  # else one bad text fails a query
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not on its way there

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's sqlite3 begins at the first write, after the reads

    return engine
