"""The work of each owner's jobs in a day (UTC), in `ImageSpec.cost`: what the daily caps of keys are compared with."""

from math import ceil

from sqlalchemy import ColumnElement, Connection, Float, case, cast, delete, select, update

from deployments.dispatcher.job_tables import usage
from deployments.errors import QuotaExceeded
from deployments.jobs import Job

DAY_S = 86400


def spend(connection: Connection, job: Job, max_cost: float) -> None:
    """Count a job for its owner's day. Raises QuotaExceeded if that would be more than `max_cost`."""
    day, cost = _day(job.timestamps.created), _cost(job)
    before = _spent(connection, job.owner, day)
    if before + cost > max_cost:
        raise QuotaExceeded(
            f"This key may ask for {max_cost:g} megapixel steps a day; {before:.4g} are spent, and this would be "
            f"{cost:.4g} more. Nothing was queued.",
            ceil((day + 1) * DAY_S - job.timestamps.created),
        )
    if not connection.execute(update(usage).where(*_of(job.owner, day)).values(cost=before + cost)).rowcount:
        connection.execute(usage.insert().values(owner=job.owner, day=day, cost=cost))


def refund(connection: Connection, job: Job) -> None:
    """Count a job no longer. It may not have been counted: its owner's key had no cap then."""
    day, cost = _of(job.owner, _day(job.timestamps.created)), _cost(job)
    left = case((usage.c.cost > cost, usage.c.cost - cost), else_=0.0)
    connection.execute(update(usage).where(*day).values(cost=left))


def spent(connection: Connection, owner: str, now: float) -> float:
    """Return the work of an owner's jobs of the day, as far as it was counted."""
    return _spent(connection, owner, _day(now))


def forget_before(connection: Connection, moment: float) -> None:
    """Delete the counts of the days before a moment."""
    connection.execute(delete(usage).where(usage.c.day < _day(moment)))


def _cost(job: Job) -> float:
    return sum(spec.cost for spec in job.specs)


def _spent(connection: Connection, owner: str, day: int) -> float:
    return connection.scalar(select(cast(usage.c.cost, Float)).where(*_of(owner, day))) or 0.0


def _of(owner: str, day: int) -> tuple[ColumnElement[bool], ...]:
    return usage.c.owner == owner, usage.c.day == day


def _day(moment: float) -> int:
    return int(moment // DAY_S)
