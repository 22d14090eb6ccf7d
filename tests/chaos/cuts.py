"""The link between two machines is cut: what was accepted is drawn, and as it would have been."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from tests.chaos.client import wait_until
from tests.chaos.drill import DISTINCT, ENDS_WITHIN_S, Outcome, a_body, undisturbed
from tests.chaos.machines import WORKER, Machines, reaches

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
    ends = {number: machines.end_of(job_id, ENDS_WITHIN_S) for number, job_id in submitted.items()}
    lost = [number for number, end in ends.items() if end is None or end["status"] != "succeeded"]
    different = [
        number
        for number, end in ends.items()
        if end is not None and end["images"] and machines.pixels(end) != expected[number % DISTINCT]
    ]
    figures = {
        "cut for, s": seconds,
        "jobs": len(ends),
        "ended meanwhile": meanwhile,
        "first after it, s": round(min(moment for moment in ended if moment > mended) - mended, 1),
        "lost": len(lost),
        "began again": sum(bool(end and end["warnings"]) for end in ends.values()),
        "pixels that differ": len(different),
        "why": sorted({str(end and end["error"]) for end in (ends[number] for number in lost)}),
    }
    return Outcome("a cut between machines loses nothing", not lost and not different and not reached, figures)
