"""Uploaded images in the database: which ones an owner has, and which jobs need them (`job_tables`: inputs, pins).

Functions of one transaction. An input that a job needs is *pinned*: it is neither deleted nor expires.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Table, case, cast, delete, func, select, update

from deployments.config import LEAST_COUNTED_BYTES, InputsConfig
from deployments.dispatcher.job_tables import inputs, pins
from deployments.errors import InputInUse, InputNotFound, InputQuotaExceeded, StorageFull
from deployments.input_store import PREFIX, StoredInput, file_name, is_input_id
from deployments.jobs import Job
from deployments.named_inputs import MASK
from models.errors import InvalidRequest
from models.parameters import MASK_RULES, MaskFlaw

_SIZE = cast(inputs.c.size, BigInteger)  # SQLite keeps any value in any column: cast, what is not a number is 0
_COUNTED = case((_SIZE < LEAST_COUNTED_BYTES, LEAST_COUNTED_BYTES), else_=_SIZE)


def add(
    connection: Connection,
    owner: str,
    image: StoredInput,
    config: InputsConfig,
    mask_flaw: MaskFlaw | None = None,
) -> tuple[StoredInput, bool]:
    """Add an input, and return it as it is kept and whether it is new; one that is there is kept for longer.

    Raises:
        InputQuotaExceeded, StorageFull: there is no room for a new one.
    """
    same = _of(inputs, owner, image.id)
    later = case((inputs.c.expires > image.expires, inputs.c.expires), else_=image.expires)
    flaw = inputs.c.mask_flaw if mask_flaw is None else mask_flaw
    if connection.execute(update(inputs).where(*same).values(expires=later, mask_flaw=flaw)).rowcount:
        return find(connection, owner, image.id), False
    check_room(connection, owner, image.bytes, image.created, config)
    row = {
        "owner": owner,
        "digest": image.id.removeprefix(PREFIX),
        "size": image.bytes,
        "width": image.width,
        "height": image.height,
        "created": image.created,
        "expires": image.expires,
        "mask_flaw": mask_flaw,
    }
    connection.execute(inputs.insert().values(row))
    return image, True


def check_room(connection: Connection, owner: str, size: int, now: float, config: InputsConfig) -> None:
    """Check whether an owner may keep `size` bytes more.

    Raises:
        InputQuotaExceeded: not the owner.
        StorageFull: nobody may.
    """
    of_owner, counted = inputs.c.owner == owner, max(size, LEAST_COUNTED_BYTES)
    kept, first = connection.execute(select(func.sum(_COUNTED), func.min(inputs.c.expires)).where(of_owner)).one()
    if (kept or 0) + counted > config.max_owner_bytes:
        raise InputQuotaExceeded(
            f"Your inputs may take {config.max_owner_bytes} bytes, each {LEAST_COUNTED_BYTES} or more; "
            f"{kept or 0} are taken, and this one would take {counted}. Delete some with DELETE /v1/inputs/ID, or wait "
            f"until they expire.",
            max(1, ceil((first or now) - now)),
        )
    if kept_bytes(connection) + counted > config.max_total_bytes:
        remedy = "Delete some of yours with DELETE /v1/inputs/ID, or try" if kept else "Try"
        raise StorageFull(f"There is no room for more inputs. {remedy} again when others have expired.")


def find(connection: Connection, owner: str, input_id: str) -> StoredInput:
    """Return an input of an owner. Raises InputNotFound."""
    row = None
    if is_input_id(input_id):
        row = connection.execute(select(inputs).where(*_of(inputs, owner, input_id))).one_or_none()
    if row is None:
        raise InputNotFound(f"There is no input {input_id[:80]}.")
    return _input(row)


def newest(connection: Connection, owner: str, limit: int, after: str | None = None) -> list[StoredInput]:
    """Return an owner's inputs, newest first; those that come after another one in that order.

    Raises:
        InputNotFound: the owner does not have that one; `param` is `after`.
    """
    chosen = select(inputs).where(inputs.c.owner == owner).order_by(inputs.c.created.desc(), inputs.c.digest.desc())
    if after is not None:
        mark = _named(connection, owner, "after", after)
        is_next = (inputs.c.created == mark.created) & (inputs.c.digest < mark.id.removeprefix(PREFIX))
        chosen = chosen.where((inputs.c.created < mark.created) | is_next)
    return [_input(row) for row in connection.execute(chosen.limit(limit))]


def remove(connection: Connection, owner: str, input_id: str) -> None:
    """Forget an input.

    Raises:
        InputNotFound: there is none.
        InputInUse: a job that has not ended needs it.
    """
    find(connection, owner, input_id)
    job = connection.scalar(select(pins.c.job).where(*_of(pins, owner, input_id)).limit(1))
    if job is not None:
        raise InputInUse(f"Job {job} needs input {input_id}: cancel the job, or delete the input once it has ended.")
    connection.execute(delete(inputs).where(*_of(inputs, owner, input_id)))


def pin(connection: Connection, job: Job, named: Mapping[str, str]) -> None:
    """Keep the inputs that fields of a job name: field -> id.

    Raises:
        InputNotFound: the owner of the job does not have one of them; `param` is the field.
        InvalidRequest: one of them is no mask, and is to be one.
    """
    for field, input_id in named.items():
        _named(connection, job.owner, field, input_id)
        if field == MASK:
            _check_mask(connection, job.owner, input_id)
    for digest in {input_id.removeprefix(PREFIX) for input_id in named.values()}:
        connection.execute(pins.insert().values(job=job.id, owner=job.owner, digest=digest))


def mask_flaw(connection: Connection, owner: str, input_id: str) -> str | None:
    """Return what keeps an input from being a mask, a `MaskFlaw`; None if nothing does, or if there is no input."""
    return connection.scalar(select(inputs.c.mask_flaw).where(*_of(inputs, owner, input_id)))


def _check_mask(connection: Connection, owner: str, input_id: str) -> None:
    flaw = mask_flaw(connection, owner, input_id)
    if flaw in MASK_RULES:
        raise InvalidRequest(f"{MASK} {MASK_RULES[flaw]}.", MASK)


def release(connection: Connection, job_id: str) -> None:
    """Let go of the inputs of a job."""
    connection.execute(delete(pins).where(pins.c.job == job_id))


def expire(connection: Connection, before: float) -> list[str]:
    """Forget the inputs that have expired before a moment and are not pinned. Return the names of their files."""
    is_pinned = select(pins).where(pins.c.owner == inputs.c.owner, pins.c.digest == inputs.c.digest).exists()
    expired = delete(inputs).where(inputs.c.expires < before, ~is_pinned)
    rows = connection.execute(expired.returning(inputs.c.owner, inputs.c.digest))
    return [file_name(row.owner, row.digest) for row in rows]


def orphans(connection: Connection, names: Sequence[str]) -> list[str]:
    """Return those of some files that are no inputs: their upload broke off."""
    digests = {name.removeprefix(".").partition("-")[2][:64] for name in names}
    rows = connection.execute(select(inputs.c.owner, inputs.c.digest).where(inputs.c.digest.in_(digests)))
    known = {file_name(row.owner, row.digest) for row in rows}
    return [name for name in names if name not in known]


def kept_bytes(connection: Connection) -> int:
    """Return how many bytes all inputs take, as they are counted for the quotas."""
    return int(connection.scalar(select(func.sum(_COUNTED))) or 0)


def _named(connection: Connection, owner: str, field: str, input_id: str) -> StoredInput:
    """Return the input that a field names. Raises InputNotFound, whose `param` is the field."""
    try:
        return find(connection, owner, input_id)
    except InputNotFound:
        message = f"{field} must be the id of an input that POST /v1/inputs returned; there is no {input_id[:80]}."
        raise InputNotFound(message, field) from None


def _of(table: Table, owner: str, input_id: str) -> tuple[ColumnElement[bool], ...]:
    return table.c.owner == owner, table.c.digest == input_id.removeprefix(PREFIX)


def _input(row: Any) -> StoredInput:
    return StoredInput(
        id=PREFIX + row.digest,
        width=row.width,
        height=row.height,
        bytes=row.size,
        created=row.created,
        expires=row.expires,
    )
