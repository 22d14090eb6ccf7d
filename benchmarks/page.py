"""What the page costs: how soon it can be used, and what a hundred pages that nobody touches take.

A hundred tabs of Chromium do not fit on a small machine. So one is watched while it opens the page, and each of the
hundred sessions asks for the same over HTTP, with a cookie, a session and six connections of its own: the page, a file
on each connection (the others are the same for everybody, and no replica sends them), the load event and its stream.
What Chromium keeps open they keep open, connections included: at first the stream of events, which lingers for a
minute after the last of them, then nothing; Gradio's heartbeat is only for pages with state.
"""

import asyncio
import json
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx
import psutil
from playwright.sync_api import Browser, Request

from benchmarks.chromium import INTERACTIVE, running_chromium
from benchmarks.harness import Service, finish, running_service

MIB = 2**20
VISITS = 10
SETTLED_MS = 3000  # after which a page that was left alone asks for nothing more
SESSIONS, AT_ONCE, CONNECTIONS = 100, 5, 6  # six to a host, as browsers have
ROUNDS = 4
JOBS = [{"prompt": "a red circle on a blue background", "num_inference_steps": 8, "seed": seed} for seed in range(48)]
PARTS = {":GradioIngress": "page", "ProxyActor": "proxy"}


@dataclass(frozen=True)
class Asked:
    """A request that Chromium made; `ended` is false where it keeps the answer open."""

    method: str
    path: str
    body: str
    ended: bool


@dataclass(frozen=True)
class Visit:
    """All that Chromium asked for, in its order, and the session that it gave itself."""

    asked: list[Asked]
    session: str

    @property
    def files(self) -> list[Asked]:
        """What is the same for everybody."""
        return [asked for asked in self.asked if self.session not in asked.path + asked.body]

    @property
    def events(self) -> list[Asked]:
        """What is asked for in the session's name."""
        return [asked for asked in self.asked if self.session in asked.path + asked.body]

    def text(self, text: str, session: str) -> str:
        """The same for another session."""
        return text.replace(self.session, session)


def interactive_s(browser: Browser, address: str) -> float:
    """Seconds from navigation until a fresh profile can generate."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(INTERACTIVE)
    seconds = page.evaluate("performance.now()") / 1000  # since the navigation began
    context.close()
    return seconds


def watched_visit(browser: Browser, address: str) -> Visit:
    """What a fresh profile asks for until it has settled."""
    context = browser.new_context()
    page = context.new_page()
    made: list[Request] = []
    ended: set[Request] = set()
    page.on("request", lambda request: made.append(request))
    page.on("requestfinished", lambda request: ended.add(request))
    page.on("requestfailed", lambda request: ended.add(request))
    page.goto(address)
    page.wait_for_selector(INTERACTIVE)
    page.wait_for_timeout(SETTLED_MS)
    asked = [Asked(r.method, r.url.removeprefix(address), r.post_data or "", r in ended) for r in made]
    context.close()
    joined = next(each for each in asked if each.path.startswith("/gradio_api/queue/join"))
    return Visit(asked, json.loads(joined.body)["session_hash"])


@asynccontextmanager
async def open_sessions(address: str, visit: Visit) -> AsyncIterator[None]:
    """`SESSIONS` people who have opened the page and leave it so."""
    async with AsyncExitStack() as kept:
        free = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with free:
                await arrive(address, visit, kept)

        await asyncio.gather(*(one() for _ in range(SESSIONS)))
        yield


async def arrive(address: str, visit: Visit, kept: AsyncExitStack) -> None:
    """Open the page as Chromium does. What it keeps open is `kept`."""
    limits = httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=None)
    client = await kept.enter_async_context(httpx.AsyncClient(base_url=address, timeout=300, limits=limits))
    session = secrets.token_hex(6)

    async def ask(asked: Asked) -> None:
        body, path = visit.text(asked.body, session), visit.text(asked.path, session)
        request = client.build_request(asked.method, path, content=body, headers={"Content-Type": "application/json"})
        answer = await client.send(request, stream=True)
        answer.raise_for_status()
        if not asked.ended:
            kept.push_async_callback(answer.aclose)
        elif b'"unexpected_error"' in await answer.aread():
            raise RuntimeError(answer.text)

    page, *files = visit.files
    await ask(page)
    await asyncio.gather(*map(ask, files[:CONNECTIONS]))
    for event in visit.events:
        await ask(event)


async def rate(address: str) -> float:
    """Pictures a second of `JOBS`, all sent at once."""
    async with httpx.AsyncClient(base_url=address, timeout=300) as client:
        start = time.perf_counter()
        answers = await asyncio.gather(*(client.post("/v1/images/generations", json=job) for job in JOBS))
        seconds = time.perf_counter() - start
    for answer in answers:
        answer.raise_for_status()
    return len(JOBS) / seconds


def memory(service: Service) -> dict[str, float]:
    """What is theirs alone of the processes that serve the page, in MiB."""
    found = dict.fromkeys(PARTS.values(), 0.0)
    for process in psutil.Process(service.pid).children(recursive=True):
        title = " ".join(process.cmdline()[:1])
        for mark, name in PARTS.items():
            if mark in title:
                found[name] += process.memory_full_info().uss / MIB
    return found


async def crowd(service: Service, visit: Visit) -> dict[str, dict[str, list[float]]]:
    """Memory and throughput with `SESSIONS` pages open and with none, in turns. A warm-up goes before."""
    rates: dict[str, list[float]] = {"none": [], f"{SESSIONS} sessions": []}
    grown: dict[str, list[float]] = {name: [] for name in PARTS.values()}
    await rate(service.address)
    for _ in range(ROUNDS):
        rates["none"].append(await rate(service.address))
        before = memory(service)
        async with open_sessions(service.address, visit):
            for name, size in memory(service).items():
                grown[name].append(size - before[name])
            rates[f"{SESSIONS} sessions"].append(await rate(service.address))
    return {"grown_mib": grown, "pictures_per_s": rates}


def main() -> None:
    """Print the figures."""
    with running_service() as service:
        with running_chromium() as browser:
            visit = watched_visit(browser, service.address)  # also the warm-up
            seconds = [interactive_s(browser, service.address) for _ in range(VISITS)]
        median, most = statistics.median(seconds), max(seconds)
        print(
            f"navigation to interactive, {VISITS} fresh profiles: median {median:.2f} s, most {most:.2f} s", flush=True
        )
        found = asyncio.run(crowd(service, visit))
    streams = sum(not asked.ended for asked in visit.asked)
    none, busy = (statistics.median(rates) for rates in found["pictures_per_s"].values())
    print(f"Chromium asks for {len(visit.asked)} things, and keeps {streams} streams open")
    for name, values in found["grown_mib"].items():
        print(f"{SESSIONS} sessions, each time: the {name}'s process grows by {_words(values)} MiB")
    for name, values in found["pictures_per_s"].items():
        print(f"pictures a second with {name}: {_words(values)}")
    print(f"with {SESSIONS} sessions {busy / none:.2f} times as many as with none (medians)")
    figures = {
        "interactive_s": {"median": round(median, 2), "max": round(most, 2)},
        "requests": len(visit.asked),
        "streams": streams,
        "sessions": SESSIONS,
        **{part: {name: [round(v, 2) for v in values] for name, values in found[part].items()} for part in found},
        "times_as_many": round(busy / none, 3),
    }
    finish("page", figures)


def _words(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
