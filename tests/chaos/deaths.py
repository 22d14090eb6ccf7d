"""Processes die, and a picture is poison: what was accepted is drawn, and as it would have been."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from tests.chaos.cluster import POISON
from tests.chaos.drill import ENDS_WITHIN_S, Outcome, a_body, ends_of, undisturbed
from tests.client import wait_until
from tests.cluster import Cluster

KILLED = ("Denoiser", "Vae", "TextEncoder", "Dispatcher", "ApiIngress")  # in turns
CLIENTS = 16
TOGETHER = 4  # pictures of a batch
GHOSTS_AFTER_S = 2.0  # none may be seen
FIRST_WITHIN_S = 60.0  # after the death of every process, the first picture


def replica_deaths(cluster: Cluster, jobs: int, kills: int) -> Outcome:
    """Replicas of every kind die under load: no accepted job is lost, and each picture is what it would have been."""
    cluster.rest()
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
        try:
            for victim in itertools.islice(itertools.cycle(KILLED), kills):
                time.sleep(cluster.random.uniform(1.0, 4.0))  # at a moment that nobody chose
                cluster.kill(victim)
                wait_until(lambda victim=victim: cluster.is_back(victim))
        finally:
            all_killed.set()
        for future in running:
            future.result()
    ends = ends_of(cluster, submitted, expected)
    figures = {
        "jobs": len(ends.jobs),
        "kills": kills,
        "lost": len(ends.lost),
        "hit by a kill": len(ends.begun_again),
        "pixels that differ": len(ends.different),
        "why": ends.why,
    }
    held = not ends.lost and not ends.different and bool(ends.begun_again)
    return Outcome("accepted jobs outlive their replicas", held, figures)


def cluster_deaths(cluster: Cluster, times: int, jobs: int = 50) -> Outcome:
    """Every process dies with jobs in line: after a start they run without anyone asking, in their old order."""
    cluster.rest()
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
    held, in_time = not lost and not out_of_order, max(first_s) <= FIRST_WITHIN_S
    return Outcome("accepted jobs outlive every process", held, figures, in_time)


def takeovers(cluster: Cluster, times: int, jobs: int = 6) -> Outcome:
    """The Dispatcher dies at work: soon nothing of what it asked for is drawn any more, and then all of it is."""
    cluster.rest()
    body = a_body(5) | {"num_inference_steps": 150}
    idle, left_s, lost = [], [], 0
    for _ in range(times):
        ids = [cluster.submit(body) for _ in range(jobs)]
        wait_until(lambda ids=ids: cluster.state(ids[0])["progress"]["step"] > 0)
        left_s.append(min(cluster.state(job_id)["progress"]["eta_s"] for job_id in ids[:2]))
        cluster.kill("Dispatcher")
        time.sleep(GHOSTS_AFTER_S)
        idle.append(cluster.is_idle("Denoiser", 0.5))
        ends = [cluster.end_of(job_id, ENDS_WITHIN_S) for job_id in ids]
        lost += sum(end is None or end["status"] != "succeeded" for end in ends)
    figures = {
        "deaths": times,
        "ghosts after 2 s": idle.count(False),
        "work left, s, at least": round(min(left_s), 1),
        "jobs": times * jobs,
        "lost": lost,
    }
    in_time = all(idle) and min(left_s) > 2 * GHOSTS_AFTER_S
    return Outcome("what a dead Dispatcher asked for is left", not lost, figures, in_time)


def poison(cluster: Cluster, batches: int) -> Outcome:
    """One picture of a batch turns into numbers that are none: it fails, and its neighbours do not notice."""
    bodies = [a_body(k) | {"guidance_scale": 1.0} for k in range(TOGETHER - 1)]
    expected = [cluster.pixels(cluster.drawn(body)) for body in bodies]
    poisoned = a_body(0) | {"guidance_scale": 1.0, "prompt": f"a red {POISON}"}
    survived = failed = different = 0
    for number in range(batches):
        batch = list(bodies)
        batch.insert(number % TOGETHER, poisoned)
        ids = [cluster.submit(body) for body in batch]
        ends = [cluster.end_of(job_id, ENDS_WITHIN_S) for job_id in ids]
        guilty = ends.pop(number % TOGETHER)
        survived += guilty is None or guilty["status"] != "failed" or guilty["error"]["code"] != "non_finite"
        failed += sum(end is None or end["status"] != "succeeded" for end in ends)
        different += sum(
            cluster.pixels(end) != pixels for end, pixels in zip(ends, expected, strict=True) if end and end["images"]
        )
    figures = {
        "batches": batches,
        "neighbours that failed": failed,
        "pixels that differ": different,
        "poisoned ones that did not fail": survived,
    }
    return Outcome("a poisoned picture fails alone", not survived and not failed and not different, figures)
