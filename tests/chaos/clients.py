"""Clients repeat themselves, change their minds and lose their connections."""

import itertools
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.chaos.drill import ENDS_WITHIN_S, Outcome, a_body
from tests.client import ENDED
from tests.cluster import Cluster

FURTHER_STEPS = 6  # that a cancelled job is given the time for, and must not take


def duplicates(cluster: Cluster, keys: int, at_once: int = 8) -> Outcome:
    """The same request arrives several times at once under one key, and again with another body."""
    wrong = []
    with ThreadPoolExecutor(at_once) as clients:
        for number in range(keys):
            headers = {"Idempotency-Key": f"drill-{cluster.seed}-{number}"}
            body = {"prompt": "a red circle", "num_inference_steps": 2}
            same = list(clients.map(lambda _, h=headers, b=body: cluster.call("/v1/jobs", b, h), range(at_once)))
            other = cluster.call("/v1/jobs", body | {"prompt": "a star"}, headers)
            answers = {(status, job.get("id")) for status, job in same} | {(other[0], None)}
            if len(answers) != 2 or {status for status, _ in answers} != {202, 422}:
                wrong.append(sorted(answers, key=str))
    figures = {"keys": keys, "at once": at_once, "keys with a second job or answer": len(wrong), "why": wrong}
    return Outcome("one job a key", not wrong, figures)


def cancels(cluster: Cluster, times: int, at_the_end: int) -> Outcome:
    """Jobs are cancelled at any moment, some of them as they end: each ends once, stays as it ended, and is drawn no
    further than the step that was on its way."""
    cluster.rest()
    body = a_body(0) | {"num_inference_steps": 20}
    start, used_s = time.monotonic(), cluster.meter("Denoiser")
    cluster.end_of(cluster.submit(body), ENDS_WITHIN_S)
    takes_s = time.monotonic() - start
    step_s = used_s() / 20
    answers: Counter[str] = Counter()
    wrong, further = 0, [0.0]
    for number in range(times):
        racing = number < at_the_end
        job_id = cluster.submit(body)
        time.sleep(takes_s * (cluster.random.uniform(0.9, 1.1) if racing else cluster.random.uniform(0.0, 0.8)))
        status, job = cluster.call(f"/v1/jobs/{job_id}/cancel", {})
        used_s = cluster.meter("Denoiser")
        time.sleep(FURTHER_STEPS * step_s)
        further.append(used_s() / step_s)
        end = cluster.end_of(job_id, ENDS_WITHIN_S)
        later = cluster.end_of(job_id, ENDS_WITHIN_S)
        expected = {200: "cancelled", 409: "succeeded"}.get(status)
        answers[str(expected)] += 1
        wrong += end is None or end["status"] != expected or later != end or (status == 200 and job != end)
    figures = {
        "cancelled": answers["cancelled"],
        "ended before": answers["succeeded"],
        "wrong": wrong,
        "a step, ms": round(1000 * step_s),
        "steps' work after the answer, at most": round(max(further), 2),
    }
    return Outcome(
        "a cancelled job ends once, at once", not wrong and round(max(further)) <= 1, figures
    )  # the clock ticks coarsely


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
