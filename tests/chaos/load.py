"""More is asked for than can be drawn: who comes when, what is refused, and whether the times told were true."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any

from tests.chaos.drill import DISTINCT, ENDS_WITHIN_S, Outcome, a_body
from tests.client import ENDED
from tests.cluster import Cluster

CLIENTS = 32
AHEAD_S = 2.0  # of what is nearer, estimates are not judged
ASKED_AT_ONCE = 8  # jobs whose estimates are read each second


def fairness(cluster: Cluster, pictures: int, others: int = 4, times: int = 5) -> Outcome:
    """One owner queues many pictures, others send one at a time from addresses of their own."""
    cluster.rest()
    body = a_body(1)
    start = time.monotonic()
    cluster.end_of(cluster.submit(body), ENDS_WITHIN_S)
    takes_s = time.monotonic() - start
    for _ in range(pictures):
        cluster.submit(body)

    def one(owner: int) -> list[float]:
        waits, source = [], f"127.0.0.{owner + 10}"
        for _ in range(times):
            start = time.monotonic()
            cluster.end_of(cluster.submit(body, source), 600, source)
            waits.append(time.monotonic() - start)
        return waits

    with ThreadPoolExecutor(others) as clients:
        waits = sorted(wait for found in clients.map(one, range(others)) for wait in found)
    p95 = waits[round(0.95 * (len(waits) - 1))]
    figures = {"queued by one": pictures, "others": others, "a picture, s": round(takes_s, 2), "p95, s": round(p95, 2)}
    return Outcome("a long line of one owner does not hold up others", True, figures, in_time=p95 <= 5 * takes_s)


def overload(cluster: Cluster, seconds: float, times_capacity: float = 3.0, closed_set: int = 48) -> Outcome:
    """The line is full and three times as much is asked for as can be drawn: no less is drawn for it, and who is
    refused is told when to come back. Capacity is measured with a closed set of so many jobs."""
    cluster.rest()
    capacity = _capacity(cluster, closed_set)
    answers: list[tuple[int, Any, dict[str, str]]] = []

    def send(number: int) -> None:
        answers.append(cluster.ask("/v1/jobs", a_body(number)))

    number = 0
    while not answers or answers[-1][0] == 202:
        send(number)
        number += 1
    start = due = time.time()
    with ThreadPoolExecutor(CLIENTS) as clients:
        while time.time() < start + seconds:
            clients.submit(send, number)
            number, due = number + 1, due + cluster.random.expovariate(times_capacity * capacity)
            time.sleep(max(0.0, due - time.time()))
    accepted = [job["id"] for status, job, _ in answers if status == 202]
    refused = [headers for status, _, headers in answers if status == 429]
    for job_id in accepted:
        cluster.call(f"/v1/jobs/{job_id}/cancel", {})
    ends = [cluster.end_of(job_id, ENDS_WITHIN_S) for job_id in accepted]
    drawn = [end for end in ends if end is not None and end["status"] == "succeeded"]
    lost = sum(end is None or end["status"] not in ("succeeded", "cancelled") for end in ends)
    in_time = sum(start < end["timestamps"]["ended"] <= start + seconds for end in drawn)
    wordless = sum(not headers.get("retry-after", "").isdigit() for headers in refused)
    others = number - len(accepted) - len(refused)
    goodput = in_time / seconds / capacity
    figures = {
        "capacity, jobs/s": round(capacity, 2),
        "asked for": number,
        "refused": len(refused),
        "without Retry-After": wordless,
        "other answers, or none": others,
        "accepted and lost": lost,
        "goodput, of capacity": round(goodput, 2),
    }
    held = bool(refused) and not wordless and not others and not lost
    return Outcome("an overload is refused and slows nothing", held, figures, in_time=goodput >= 0.9)


def estimates(cluster: Cluster, jobs: int) -> Outcome:
    """A closed set of jobs: what each was told of its start and its end is held against what happened."""
    for k in range(DISTINCT):  # estimates are read off steps that were measured
        cluster.submit(a_body(k))
    cluster.rest()
    ids = [cluster.submit(a_body(cluster.random.randrange(DISTINCT))) for _ in range(jobs)]
    told: list[tuple[str, str, float, float]] = []  # job, what, when, seconds
    waiting = list(ids)
    while waiting:
        for job_id in cluster.random.sample(waiting, min(ASKED_AT_ONCE, len(waiting))):
            job, now = cluster.state(job_id), time.time()
            if job["status"] in ENDED:
                waiting.remove(job_id)
            elif job["queue"]:
                told.append((job_id, "started", now, job["queue"]["eta_s"]))
            elif job["progress"]:
                told.append((job_id, "ended", now, job["progress"]["eta_s"]))
        time.sleep(1)
    times = {job_id: cluster.state(job_id)["timestamps"] for job_id in ids}
    errors: dict[str, list[float]] = {"started": [], "ended": []}
    for job_id, what, now, seconds in told:
        true_s = times[job_id][what] - now
        if true_s >= AHEAD_S:
            errors[what].append(abs(seconds - true_s) / true_s)
    figures = {"jobs": jobs} | {
        f"{what}, told / median off / p90": f"{len(off)} / {_quantile(off, 0.5):.3f} / {_quantile(off, 0.9):.3f}"
        for what, off in errors.items()
    }
    both = errors["started"] + errors["ended"]
    in_time = _quantile(both, 0.5) <= 0.1 and _quantile(both, 0.9) <= 0.3
    return Outcome("the times told come true", len(both) >= jobs // 2, figures, in_time)


def _capacity(cluster: Cluster, jobs: int) -> float:
    """Jobs a second while the line is never empty: between a third and two thirds of a closed set."""
    ids = [cluster.submit(a_body(k)) for k in range(jobs)]
    ends = [cluster.end_of(job_id, ENDS_WITHIN_S) for job_id in ids]
    ended = sorted(end["timestamps"]["ended"] for end in ends if end is not None)
    first, last = jobs // 6, jobs - jobs // 6
    return (last - first) / (ended[last] - ended[first])


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))] if values else inf
