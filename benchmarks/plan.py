"""How many replicas of each stage a load needs, and what a picture costs: the Dispatcher's forecast, with arrivals.

`python -m benchmarks.plan --curve FILE --rate 5 --p95-s 8`, the file being one that `python -m benchmarks.curve` wrote.

Assumed: pictures arrive at random (Poisson), all of the size, steps and guidance that the curve was measured with; a
replica has a device of its own, as fast as the measured one; encoders and decoders take pictures one by one; replicas
share the rows evenly; nothing else takes time: HTTP and calls between stages, tens of milliseconds, come on top.
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, finish
from deployments.dispatcher.forecast import Fleet, Task, forecast, rows_in_flight
from models.denoiser.step_curve import StepCurve

PICTURES = 4000  # simulated
WARM = 400  # of them the first, which found everything idle, do not count
MOST_REPLICAS = 1024
STAGE_WAIT = 0.05  # of the wanted time: what a picture may wait for an encoder or a decoder


class Unplannable(Exception):
    """No number of replicas does it, or there is nothing to plan from: why."""


@dataclass(frozen=True)
class Curve:
    """What was measured of one model on one device."""

    device: str
    model: str
    rows: int  # of a picture
    steps: int
    size: tuple[int, int]
    encode_s: float
    decode_s: float
    curve: StepCurve

    @property
    def cells(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def batch_rows(self) -> int:
        """Rows that a forward has at most: as many as make it faster a row."""
        most = max(rows for rows, _ in self.curve.seconds)
        return max(2, self.curve.best_rows(self.cells, most))

    @property
    def busy_s(self) -> float:
        """Device seconds of one picture where every forward is full."""
        pictures = self.batch_rows // self.rows
        step_s = self.curve.step_s(pictures * self.rows, self.cells)
        return self.encode_s + self.steps * step_s / pictures + self.decode_s

    @property
    def alone_s(self) -> float:
        """Seconds of one picture where nobody else is."""
        return self.encode_s + self.steps * self.curve.step_s(self.rows, self.cells) + self.decode_s


@dataclass(frozen=True)
class Plan:
    """Replicas of each stage, and the time that 95 % of the pictures take less than."""

    text_encoders: int
    denoisers: int
    vaes: int
    p50_s: float
    p95_s: float


def read_curve(path: Path) -> Curve:
    """Return what `benchmarks.curve` wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    size = found["width"], found["height"]
    seconds = {(int(rows), size[0] * size[1]): taken for rows, taken in found["step_s"].items()}
    times = found["encode_s"], found["decode_s"]
    return Curve(found["device"], found["model"], found["rows"], found["steps"], size, *times, StepCurve(seconds))


def find_curve(model: str, gpu: str) -> Path:
    """Return the curve that ships with Darkroom. Raises Unplannable: it was never measured."""
    path = ROOT / "benchmarks" / "curves" / f"{model}-{gpu}.json"
    if not path.exists():
        raise Unplannable(
            f"{model} was never measured on {gpu}, and nothing is guessed here. On one, run\n"
            f"  python -m benchmarks.curve --checkpoint FOLDER --dtype bfloat16 --out {model}-{gpu}.json\n"
            f"and plan with --curve {model}-{gpu}.json."
        )
    return path


def served_s(arrivals: Sequence[float], service_s: float, servers: int) -> list[float]:
    """Return when each is done that arrives at a stage which takes one after the other."""
    free = [0.0] * servers
    heapify(free)
    done = []
    for arrival in arrivals:
        end = max(free[0], arrival) + service_s
        heapreplace(free, end)
        done.append(end)
    return done


def latencies(curve: Curve, rate: float, encoders: int, denoisers: int, decoders: int, seed: int) -> list[float]:
    """Return the seconds from arrival to file of simulated pictures, in ascending order."""
    rng, clock, arrivals = random.Random(seed), 0.0, []
    for _ in range(PICTURES):
        clock += rng.expovariate(rate)
        arrivals.append(clock)
    encoded = served_s(arrivals, curve.encode_s, encoders)
    fleet = Fleet(
        replicas=denoisers,
        rows_in_flight=rows_in_flight(curve.batch_rows, denoisers),
        batch_rows=lambda _: curve.batch_rows,
        step_s=lambda rows, _: curve.curve.step_s(rows, curve.cells),
        decode_s=lambda _: 0.0,
    )
    denoised = [one.end_s for one in forecast([Task(curve.rows, curve.size, curve.steps, at) for at in encoded], fleet)]
    order = sorted(range(PICTURES), key=denoised.__getitem__)
    done = dict(zip(order, served_s([denoised[k] for k in order], curve.decode_s, decoders), strict=True))
    return sorted(done[k] - arrivals[k] for k in range(WARM, PICTURES))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` of the ordered ones are at most."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def plan(curve: Curve, rate: float, p95_s: float, seed: int = 0) -> Plan:
    """Return the fewest denoisers, with enough encoders and decoders, that keep 95 % within `p95_s` seconds.

    Raises:
        Unplannable: one picture alone takes longer, or more replicas would be needed than are tried.
    """
    if curve.alone_s > p95_s:
        raise Unplannable(f"One picture alone takes {curve.alone_s:.2f} s: no number of replicas makes that {p95_s} s.")
    encoders, decoders = (_servers(rate, each, STAGE_WAIT * p95_s, seed) for each in (curve.encode_s, curve.decode_s))
    work_s = curve.busy_s - curve.encode_s - curve.decode_s
    for denoisers in range(math.ceil(rate * work_s), MOST_REPLICAS + 1):
        found = latencies(curve, rate, encoders, max(1, denoisers), decoders, seed)
        if percentile(found, 0.95) <= p95_s:
            return Plan(encoders, max(1, denoisers), decoders, percentile(found, 0.5), percentile(found, 0.95))
    raise Unplannable(f"{MOST_REPLICAS} denoisers do not keep 95 % within {p95_s} s.")


def _servers(rate: float, service_s: float, wait_s: float, seed: int) -> int:
    """Return how many replicas keep 95 % of the waits for one below `wait_s`."""
    rng, clock, arrivals = random.Random(seed), 0.0, []
    for _ in range(PICTURES):
        clock += rng.expovariate(rate)
        arrivals.append(clock)
    for servers in range(max(1, math.ceil(rate * service_s)), MOST_REPLICAS + 1):
        done = served_s(arrivals, service_s, servers)
        waits = sorted(end - service_s - at for end, at in zip(done, arrivals, strict=True))
        if percentile(waits, 0.95) <= wait_s:
            return servers
    raise Unplannable(f"{MOST_REPLICAS} replicas of a stage that takes {service_s} s are not enough.")


def main() -> int:
    """Print the plan; 1 where there is none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curve", type=Path, help="a file that `python -m benchmarks.curve` wrote")
    parser.add_argument("--model", help="without --curve: a model and")
    parser.add_argument("--gpu", help="a GPU that were measured")
    parser.add_argument("--rate", type=float, required=True, help="pictures a second")
    parser.add_argument("--p95-s", type=float, required=True, help="seconds that 95 %% may take at most")
    parser.add_argument("--seed", type=int, default=0, help="of the random arrivals")
    args = parser.parse_args()
    if args.curve is None and not (args.model and args.gpu):
        parser.error("name a --curve, or a --model and a --gpu")
    try:
        curve = read_curve(args.curve or find_curve(args.model, args.gpu))
        found = plan(curve, args.rate, args.p95_s, args.seed)
    except Unplannable as error:
        print(error)
        return 1
    devices = found.text_encoders + found.denoisers + found.vaes
    print(f"{curve.model} on {curve.device}, {args.rate:g} pictures a second, {curve.steps} steps of {curve.rows} rows")
    print(f"  TextEncoder {found.text_encoders:4}    Denoiser {found.denoisers:4}    Vae {found.vaes:4}")
    print(f"  p50 {found.p50_s:.2f} s, p95 {found.p95_s:.2f} s ({args.p95_s:g} wanted); alone {curve.alone_s:.2f} s")
    print(f"  a picture keeps a device busy for {curve.busy_s:.3f} s, and pays for {devices / args.rate:.3f} s")
    print((__doc__ or "").split("\n\n")[2].strip())
    finish("plan", {**found.__dict__, "busy_s": round(curve.busy_s, 4), "paid_s": round(devices / args.rate, 4)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
