"""Headers that several routes read and write."""

from contextlib import suppress
from math import ceil
from typing import Annotated

from fastapi import Header

from deployments.dispatcher.client import DispatcherClient
from deployments.keys import OWNER
from models.errors import InvalidRequest, Unavailable
from models.validation import Matching

EXPOSED_HEADERS = (  # to scripts of other sites' pages
    *("ETag", "Location", "Preference-Applied", "Retry-After", "x-job-id", "x-request-id", "x-seed"),
    *("x-ratelimit-limit-waiting", "x-ratelimit-remaining-waiting"),
    *("x-ratelimit-limit-cost", "x-ratelimit-remaining-cost", "x-ratelimit-reset-cost"),
)
MAX_WAIT_S = 300
IdempotencyKey = Annotated[
    Annotated[str, Matching(r"[\x21-\x7e]{1,255}", "1 to 255 visible ASCII characters")] | None,
    Header(
        description="The same key and body give the same job again, for as long as it is kept; a new one if it failed "
        "by a fault of the service: its `status` is `failed`, and its error's status 500 or more.",
        examples=["order-17"],
    ),
]
Prefer = Annotated[
    str | None,
    Header(description=f"`wait=N`: answer when the job has ended, or after N seconds (1 to {MAX_WAIT_S})."),
]


def kept_forever(name: str) -> dict[str, str]:
    """Return the headers of what never changes under its name."""
    return {"ETag": f'"{name}"', "Cache-Control": "private, max-age=31536000, immutable"}


def wait_s(prefer: str | None) -> int | None:
    """Return the seconds of a `Prefer: wait=N` (RFC 7240); other preferences are not ours.

    Raises:
        InvalidRequest: no number of seconds from 1 to `MAX_WAIT_S`.
    """
    preferences = (each.partition("=") for each in (prefer or "").replace(";", ",").split(","))
    given = next((value.strip().strip('"') for name, _, value in preferences if name.strip() == "wait"), None)
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 3 and 1 <= int(given) <= MAX_WAIT_S):
        raise InvalidRequest(f"Prefer: wait must be from 1 to {MAX_WAIT_S}, got {given[:40] or 'nothing'}.", "Prefer")
    return int(given)


async def allowance_headers(client: DispatcherClient, owner: str) -> dict[str, str]:
    """Return the headers that say what is left of a key's caps; none for whom has none.

    None either where that cannot be found out: a job that was accepted must not be answered with an error.
    """
    allowance = None
    with suppress(Unavailable):
        allowance = await client.allowance(owner) if owner.startswith(OWNER) else None
    headers: dict[str, str] = {}
    if allowance is not None and allowance.max_waiting is not None:
        headers["x-ratelimit-limit-waiting"] = str(allowance.max_waiting)
        headers["x-ratelimit-remaining-waiting"] = str(max(0, allowance.max_waiting - allowance.waiting))
    if allowance is not None and allowance.max_cost_per_day is not None:
        headers["x-ratelimit-limit-cost"] = f"{allowance.max_cost_per_day:g}"
        headers["x-ratelimit-remaining-cost"] = f"{max(0.0, allowance.max_cost_per_day - allowance.spent):.6g}"
        headers["x-ratelimit-reset-cost"] = str(ceil(allowance.resets_in_s))
    return headers
