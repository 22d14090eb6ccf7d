"""The link between two machines is cut: what was accepted is drawn, and as it would have been."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from tests.chaos.drill import Outcome, a_body, ends_of, undisturbed
from tests.chaos.machines import WORKER, Machines, reaches
from tests.client import wait_until

CLIENTS = 8
BEFORE, AFTER = 8, 16  # jobs that have ended before the cut, and after it


def cut(machines: Machines, seconds: float) -> Outcome:
    """One machine is off the network for so long, under load."""
    machines.rest()
    expected = undisturbed(machines)
    numbers = itertools.count()
    submitted: dict[int, str] = {}
    ended: list[float] = []
    over = Event()

    def client() -> None:
        while not over.is_set():
            number = next(numbers)
            submitted[number] = machines.submit(a_body(number))
            machines.end_of(submitted[number], 600)
            ended.append(time.monotonic())

    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(client) for _ in range(CLIENTS)]
        try:
            wait_until(lambda: len(ended) >= BEFORE)
            machines.cut()
            start = time.monotonic()
            reached = reaches(WORKER)
            time.sleep(seconds)
            machines.mend()
            mended, meanwhile = time.monotonic(), sum(moment > start for moment in ended)
            wait_until(lambda: machines.replicas("Denoiser") == 2)
            wait_until(lambda: sum(moment > mended for moment in ended) >= AFTER)
        finally:
            machines.mend()
            over.set()
        for future in running:
            future.result()
    ends = ends_of(machines, submitted, expected)
    figures = {
        "cut for, s": seconds,
        "jobs": len(ends.jobs),
        "ended meanwhile": meanwhile,
        "first after it, s": round(min(moment for moment in ended if moment > mended) - mended, 1),
        "lost": len(ends.lost),
        "began again": len(ends.begun_again),
        "pixels that differ": len(ends.different),
        "why": ends.why,
    }
    held = not ends.lost and not ends.different and not reached
    return Outcome("a cut between machines loses nothing", held, figures)
