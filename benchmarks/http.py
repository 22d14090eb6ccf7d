"""What the HTTP API bears: requests a second, event streams, and clients who dawdle. With one ApiIngress and with two.

The denoiser is at work meanwhile, as it is in life. `--slow` adds two minutes in which 200 clients send their bodies a
byte a second and 50 never read their event streams: what others get then, against what they got before.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.harness import Service, finish, running_service

LONG = {"prompt": "a red circle on a blue background", "num_inference_steps": 150, "num_images": 10}
REQUESTS = 400
AT_ONCE = 4
WATCHERS = 200
WATCH_S = 15.0
SLOW_SENDERS, STALLED_READERS, SLOW_S = 200, 50, 120.0


async def timed(call: Callable[[], Awaitable[httpx.Response]], requests: int = REQUESTS) -> list[float]:
    """Seconds of each of many calls, `AT_ONCE` at a time."""
    taken: list[float] = []

    async def some() -> None:
        for _ in range(requests // AT_ONCE):
            start = time.perf_counter()
            (await call()).raise_for_status()
            taken.append(time.perf_counter() - start)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return taken


async def requests(client: httpx.AsyncClient) -> dict[str, Any]:
    """Requests a second and how long each takes: health, submit, get."""
    job = (await client.post("/v1/jobs", json=LONG)).json()
    calls = {
        "health": lambda: client.get("/v1/health"),
        "submit": lambda: client.post("/v1/jobs", json=LONG | {"num_images": 1}),
        "get": lambda: client.get(f"/v1/jobs/{job['id']}"),
    }
    found: dict[str, Any] = {}
    for name, call in calls.items():
        start = time.perf_counter()
        taken = await timed(call)
        rate = len(taken) / (time.perf_counter() - start)
        found[name] = {"per_s": round(rate), "p50_ms": _ms(taken, 0.5), "p99_ms": _ms(taken, 0.99)}
        print(f"  {name:8}{rate:8.0f} a second {_ms(taken, 0.5):8.1f} {_ms(taken, 0.99):8.1f} ms (p50, p99)")
    return found


async def fan_out(client: httpx.AsyncClient, service: Service, job_ids: Sequence[str]) -> dict[str, Any]:
    """`WATCHERS` streams, over one job or as many as there are: what they cost, and how far apart they hear of it."""
    heard: dict[tuple[str, int], list[float]] = {}
    before_s, before = _cpu_s(service), _memory(service)

    async def watcher(job_id: str) -> None:
        async with client.stream("GET", f"/v1/jobs/{job_id}/watch") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    heard.setdefault((job_id, json.loads(line[6:])["version"]), []).append(time.perf_counter())

    with suppress(TimeoutError):
        async with asyncio.timeout(WATCH_S):
            tasks = [asyncio.create_task(watcher(job_ids[k % len(job_ids)])) for k in range(WATCHERS)]
            await asyncio.sleep(WATCH_S * 0.9)
            used = {name: _cpu_s(service)[name] - before_s[name] for name in before_s}
            grown = {name: _memory(service)[name] - before[name] for name in before}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    events = sum(map(len, heard.values()))
    spreads = [max(times) - min(times) for times in heard.values() if len(times) > WATCHERS // 2]
    spread = _ms(spreads, 0.5) if spreads else None
    cores = {name: round(seconds / (WATCH_S * 0.9), 2) for name, seconds in used.items()}
    kib = round(sum(grown.values()) / WATCHERS / 1024)
    rate = events / WATCH_S
    print(f"  {WATCHERS} watchers, {len(job_ids):3} jobs: {rate:6.0f} events/s, cores {cores}, {kib} KiB a watcher")
    return {"events_per_s": round(rate), "cores": cores, "kib_a_watcher": kib, "spread_ms": spread}


async def dawdlers(client: httpx.AsyncClient, address: str, job_id: str) -> dict[str, Any]:
    """What others get before, and while, many clients dawdle."""
    host, port = urlsplit(address).hostname, urlsplit(address).port
    body = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
    watch = f"GET /v1/jobs/{job_id}/watch HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    cut = 0

    async def sender() -> None:
        nonlocal cut
        while True:
            reader, writer = await asyncio.open_connection(host, port)
            with suppress(OSError):
                writer.write(body)
                while not reader.at_eof():
                    writer.write(b" ")
                    await writer.drain()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            if not await reader.read(65536):
                                break
            writer.close()
            cut += 1

    async def staller() -> None:
        _, writer = await asyncio.open_connection(host, port, limit=1)
        writer.write(watch)
        await asyncio.sleep(2 * SLOW_S)

    async def others(seconds: float) -> list[float]:
        taken, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            taken += await timed(lambda: client.get("/v1/queue"), 2 * AT_ONCE)
            await asyncio.sleep(0.2)
        return taken

    before = await others(20)
    slow = [asyncio.create_task(sender()) for _ in range(SLOW_SENDERS)]
    slow += [asyncio.create_task(staller()) for _ in range(STALLED_READERS)]
    during = await others(SLOW_S)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    figures = {"p95_before_ms": _ms(before, 0.95), "p95_during_ms": _ms(during, 0.95), "senders_cut": cut}
    print(f"  {SLOW_SENDERS} slow senders, {STALLED_READERS} stalled readers, {SLOW_S:.0f} s: others' p95 {figures}")
    return figures


def _ms(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return round(1000 * ordered[round(share * (len(ordered) - 1))], 1)


def _parts(service: Service) -> dict[str, list[psutil.Process]]:
    parts: dict[str, list[psutil.Process]] = {"ApiIngress": [], "proxy": [], "Dispatcher": []}
    names = {":ApiIngress": "ApiIngress", "ProxyActor": "proxy", ":Dispatcher": "Dispatcher"}
    for process in psutil.Process(service.pid).children(recursive=True):
        title = " ".join(process.cmdline()[:1])
        for mark, name in names.items():
            if mark in title:
                parts[name].append(process)
    return parts


def _cpu_s(service: Service) -> dict[str, float]:
    return {name: sum(sum(p.cpu_times()[:2]) for p in found) for name, found in _parts(service).items()}


def _memory(service: Service) -> dict[str, int]:
    return {name: sum(p.memory_full_info().uss for p in found) for name, found in _parts(service).items()}


async def measure(service: Service, slow: bool) -> dict[str, Any]:
    """All figures of one service."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=service.address, timeout=120, limits=limits) as client:
        found = await requests(client)
        jobs = (await client.get("/v1/jobs", params={"limit": 100, "status": "queued"})).json()["data"]
        more = [(await client.post("/v1/jobs", json=LONG | {"num_images": 1})).json() for _ in range(WATCHERS)]
        found["one_job"] = await fan_out(client, service, [jobs[-1]["id"]])
        found["many_jobs"] = await fan_out(client, service, [job["id"] for job in more])
        if slow:
            found["slow"] = await dawdlers(client, service.address, more[-1]["id"])
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slow", action="store_true", help="two minutes of clients who dawdle, too")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for replicas in (1, 2):
        print(f"{replicas} ApiIngress")
        with running_service({"queue": {"max_waiting": 100_000}}, ApiIngress={"num_replicas": replicas}) as service:
            figures[f"replicas_{replicas}"] = asyncio.run(measure(service, args.slow and replicas == 1))
    finish("http", figures)


if __name__ == "__main__":
    main()
