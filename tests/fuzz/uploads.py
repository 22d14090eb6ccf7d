"""Sends broken images to each route that takes one, and measures what becomes of the service."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import psutil

from tests.fuzz.images import hostile_image
from tests.image_files import photo, saved

MAX_REFUSAL_S = 1.0
MAX_GROWTH_MIB = 50
WARM_UP = 50  # images of each route, before memory is measured
FORM = {"prompt": "a circle", "num_inference_steps": "2", "response_format": "url"}
MIB = 2**20


@dataclass
class Uploads:
    """What was answered, how long the slowest refusal took, and how much the process that grew most has grown."""

    answers: Counter[str] = field(default_factory=Counter)  # route and status
    problems: list[str] = field(default_factory=list)
    slowest_refusal_s: float = 0.0
    growth_mib: float = 0.0
    grown: str = ""  # that process

    def note(self, route: str, seed: int, answer: httpx.Response, took_s: float) -> None:
        """Count an answer."""
        self.answers[f"{route} {answer.status_code}"] += 1
        if answer.status_code >= 500:
            self.problems.append(f"{route}, image {seed}: {answer.status_code} {answer.text[:300]}")
        if answer.status_code >= 400:
            self.slowest_refusal_s = max(self.slowest_refusal_s, took_s)
            if took_s > MAX_REFUSAL_S:
                self.problems.append(f"{route}, image {seed}: refused after {took_s:.2f} s")


def send_uploads(address: str, pid: int, count: int, seed: int) -> Uploads:
    """Send `count` broken images to each route of a service, one after the other; `pid` is its launcher's."""
    found = Uploads()
    with httpx.Client(base_url=f"{address}/v1", timeout=60) as http:
        for number in range(seed, seed + WARM_UP):
            for send in ROUTES.values():
                send(http, number)
        before = own_bytes(pid)
        titles = {process: " ".join(process.cmdline()[:1]) or process.name() for process in before}
        for number in range(seed + WARM_UP, seed + WARM_UP + count):
            for route, send in ROUTES.items():
                begun = time.perf_counter()
                answer = send(http, number)
                found.note(route, number, answer, time.perf_counter() - begun)
        after = own_bytes(pid)
        drawn = http.post("/images/generations", json={"prompt": "a circle", "num_inference_steps": 2})
    growth = {process: after[process] - before[process] for process in before.keys() & after.keys()}
    most = max(growth, key=lambda process: growth[process])
    found.growth_mib, found.grown = growth[most] / MIB, titles[most]
    if found.growth_mib > MAX_GROWTH_MIB:
        found.problems.append(f"{found.grown} has grown by {found.growth_mib:.0f} MiB")
    died = [title for process, title in titles.items() if title.startswith("ray::Serve") and process not in after]
    found.problems += [f"{title} has died" for title in died]
    if drawn.status_code != 200:
        found.problems.append(f"afterwards: {drawn.status_code} {drawn.text[:300]}")
    return found


def _send_input(http: httpx.Client, seed: int) -> httpx.Response:
    return http.post("/inputs", content=hostile_image(seed), headers={"Content-Type": "application/octet-stream"})


def _send_image(http: httpx.Client, seed: int) -> httpx.Response:
    return http.post("/images/edits", data=FORM, files={"image": ("a", hostile_image(seed))})


def _send_mask(http: httpx.Client, seed: int) -> httpx.Response:
    files = {"image": ("a", saved(photo(), "PNG")), "mask": ("a", hostile_image(seed))}
    return http.post("/images/edits", data=FORM, files=files)


def own_bytes(pid: int) -> dict[psutil.Process, int]:
    """Memory that is a process's own, for each below a launcher."""
    return {each: each.memory_full_info().uss for each in psutil.Process(pid).children(recursive=True)}


ROUTES: dict[str, Callable[[httpx.Client, int], httpx.Response]] = {
    "inputs": _send_input,
    "edits, image": _send_image,
    "edits, mask": _send_mask,
}
