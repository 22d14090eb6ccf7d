"""The drills: each does its worst to a cluster and returns what came of its promise."""

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

from tests.chaos.cluster import ENDED, Cluster, wait_until

KILLED = ("Denoiser", "VaeDecoder", "TextEncoder", "Dispatcher", "ApiIngress")  # in turns
ENDS_WITHIN_S = 120  # after the load
CLIENTS = 16
DISTINCT = 8  # requests, over and over
SAMPLERS = ("ddim", "euler_ancestral", "dpmpp_2m", "heun")


@dataclass(frozen=True)
class Outcome:
    """What a drill found: whether the promise held, and the figures."""

    promise: str
    held: bool
    figures: dict[str, Any]


def a_body(number: int) -> dict[str, Any]:
    """One of `DISTINCT` requests."""
    k = number % DISTINCT
    return {
        "prompt": f"a {('red', 'blue')[k % 2]} circle on a white background",
        "seed": k,
        "num_inference_steps": 12 + 4 * (k % 4),
        "sampler": SAMPLERS[k % len(SAMPLERS)],
        "guidance_scale": (1.0, 4.0)[k // 4],
    }


def undisturbed(cluster: Cluster) -> list[list[str]]:
    """The pixels of each request, drawn while nothing happens."""
    ends = [cluster.end_of(cluster.submit(a_body(k)), ENDS_WITHIN_S) for k in range(DISTINCT)]
    return [cluster.pixels(end) for end in ends if end is not None]


def replica_deaths(cluster: Cluster, jobs: int, kills: int) -> Outcome:
    """Replicas of every kind die under load: no accepted job is lost, and each picture is what it would have been."""
    expected = undisturbed(cluster)
    numbers = itertools.count()
    submitted: dict[int, str] = {}
    all_killed = Event()

    def client() -> None:
        while (number := next(numbers)) < jobs or not all_killed.is_set():
            job_id = submitted[number] = cluster.submit(a_body(number))
            cluster.end_of(job_id, 600)

    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(client) for _ in range(CLIENTS)]
        for victim in itertools.islice(itertools.cycle(KILLED), kills):
            time.sleep(cluster.random.uniform(1.0, 4.0))  # at a moment that nobody chose
            cluster.kill(victim)
            wait_until(lambda victim=victim: cluster.runs(victim))
        all_killed.set()
        for future in running:
            future.result()
    ends = {number: cluster.end_of(job_id, ENDS_WITHIN_S) for number, job_id in submitted.items()}
    lost = [number for number, end in ends.items() if end is None or end["status"] != "succeeded"]
    hit = [number for number, end in ends.items() if end is not None and end["warnings"]]
    different = [
        number
        for number, end in ends.items()
        if end is not None and end["images"] and cluster.pixels(end) != expected[number % DISTINCT]
    ]
    figures = {
        "jobs": len(ends),
        "kills": kills,
        "lost": len(lost),
        "hit by a kill": len(hit),
        "pixels that differ": len(different),
        "why": sorted({str(ends[number] and ends[number]["error"]) for number in lost}),
    }
    return Outcome("accepted jobs outlive their replicas", not lost and not different and bool(hit), figures)


def cluster_deaths(cluster: Cluster, times: int, jobs: int = 50) -> Outcome:
    """Every process dies with jobs in line: after a start they run without anyone asking, in their old order."""
    lost, first_s, out_of_order = 0, [], 0
    for _ in range(times):
        ids = [cluster.submit(a_body(k)) for k in range(jobs)]
        time.sleep(cluster.random.uniform(0.5, 3.0))
        cluster.kill_all()
        moment = time.time()
        cluster.start()
        ends = [cluster.end_of(job_id, ENDS_WITHIN_S) for job_id in ids]
        lost += sum(end is None or end["status"] != "succeeded" for end in ends)
        after = [end["timestamps"] for end in ends if end and end["timestamps"]["ended"] > moment]
        first_s.append(min(times["ended"] for times in after) - moment)
        started = [times["started"] for times in after]
        out_of_order += sum(a > b for a, b in itertools.pairwise(started))
    figures = {
        "deaths": times,
        "jobs": times * jobs,
        "lost": lost,
        "first completion, s": [round(s, 1) for s in first_s],
        "started out of order": out_of_order,
    }
    return Outcome("accepted jobs outlive every process", not lost and max(first_s) <= 60 and not out_of_order, figures)


def duplicates(cluster: Cluster, keys: int, at_once: int = 8) -> Outcome:
    """The same request arrives several times at once under one key, and again with another body."""
    wrong = 0
    with ThreadPoolExecutor(at_once) as clients:
        for number in range(keys):
            headers = {"Idempotency-Key": f"drill-{cluster.seed}-{number}"}
            body = {"prompt": "a red circle", "num_inference_steps": 2}
            same = list(clients.map(lambda _, h=headers, b=body: cluster.call("/v1/jobs", b, h), range(at_once)))
            other = cluster.call("/v1/jobs", body | {"prompt": "a star"}, headers)
            wrong += len({(status, job["id"]) for status, job in same}) != 1 or same[0][0] != 202 or other[0] != 422
    figures = {"keys": keys, "at once": at_once, "keys with a second job or answer": wrong}
    return Outcome("one job a key", not wrong, figures)


def cancels(cluster: Cluster, times: int, at_the_end: int) -> Outcome:
    """Jobs are cancelled at any moment, some of them as they end: each ends once, and stays as it ended."""
    body = a_body(0) | {"num_inference_steps": 20}
    start = time.monotonic()
    cluster.end_of(cluster.submit(body), ENDS_WITHIN_S)
    takes_s = time.monotonic() - start
    answers: Counter[str] = Counter()
    wrong = 0
    for number in range(times):
        racing = number < at_the_end
        job_id = cluster.submit(body)
        time.sleep(takes_s * (cluster.random.uniform(0.9, 1.1) if racing else cluster.random.uniform(0.0, 0.8)))
        status, job = cluster.call(f"/v1/jobs/{job_id}/cancel", {})
        end = cluster.end_of(job_id, ENDS_WITHIN_S)
        later = cluster.end_of(job_id, ENDS_WITHIN_S)
        expected = {200: "cancelled", 409: "succeeded"}.get(status)
        answers[str(expected)] += 1
        wrong += end is None or end["status"] != expected or later != end or (status == 200 and job != end)
    figures = {"cancelled": answers["cancelled"], "ended before": answers["succeeded"], "wrong": wrong}
    return Outcome("a cancelled job ends once", not wrong, figures)


def cut_watches(cluster: Cluster, times: int) -> Outcome:
    """Watches are cut and opened again: the end arrives, and no state is older than the one before."""
    missed = backwards = 0
    for number in range(times):
        job_id = cluster.submit(a_body(number))
        version, ended = -1, False
        while not ended:
            states = cluster.watch(job_id, at_most=cluster.random.randint(1, 4))
            versions = [version, *(state["version"] for state in states)]
            backwards += any(a > b for a, b in itertools.pairwise(versions))
            missed += not states
            version = versions[-1]
            ended = not states or states[-1]["status"] in ENDED
    figures = {"jobs": times, "streams without a state": missed, "states that went back": backwards}
    return Outcome("a watch that was cut goes on", not missed and not backwards, figures)


def fairness(cluster: Cluster, pictures: int, others: int = 4, times: int = 5) -> Outcome:
    """One owner queues many pictures, others send one at a time from addresses of their own."""
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
    return Outcome("a long line of one owner does not hold up others", p95 <= 5 * takes_s, figures)


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a promise."""
    lines = []
    for outcome in outcomes:
        figures = ", ".join(f"{name} {value}" for name, value in outcome.figures.items() if value != [])
        lines.append(f"{'held' if outcome.held else 'BROKEN':8}{outcome.promise}: {figures}")
    return "\n".join(lines)
