"""A simulated day of bursty traffic: what scaling policies cost, and how many pictures they have done in time.

`python -m benchmarks.autoscale_sim [--config FILE] [--curve FILE]`. Bounds, delays and GPUs of a replica are those of
the config's first model that scales; what is seen is averaged over `look_back_period_s` of its `Model`. Seconds are
those of the curve (`benchmarks.curve`); without one they are assumed, for no GPU was measured: 10 ms a step and 25 ms
more for each row. `benchmarks/fleet.py` says what the simulation leaves out.

Compared: `stages` of `deployments/autoscaling.py`; Serve's default policy, calls over `target_ongoing_requests`, with
Serve's own delays, which here sees the whole line, as it would without the Dispatcher's; and fleets that stay as they
are all day.
"""

import argparse
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from ray.serve.config import AutoscalingConfig

from benchmarks.chart import draw_day
from benchmarks.fleet import DECODER, DENOISER, ENCODER, Deployment, Fleet, Outcome, Picture, Policy, Seen
from benchmarks.harness import ROOT, finish
from benchmarks.plan import percentile, read_curve
from deployments.autoscaling import stages

DAY_S = 86400.0
MIX = ((0.25, 1, 4), (0.35, 2, 20), (0.3, 2, 30), (0.1, 2, 50))  # of pictures: share, rows, steps
BURST_S, BURST_EVERY_S, BURST_TIMES = 300.0, 2400.0, 3.0  # how long, how often on average, how much more comes
ENCODE_S, DECODE_S, STEP_S, ROW_S = 0.02, 0.12, 0.010, 0.025  # assumed, in seconds
TARGETS = (2, 4, 8, 16)  # of Serve's default policy; its own default comes first
OURS, SERVES, FIXED = "Darkroom's policy", "Serve's default", "Denoisers"

Name = tuple[str, str]  # a family of policies, and which of them


def a_day(peak: float, seed: int) -> list[Picture]:
    """Return a day's pictures: at random, hardly any at 4 o'clock, `peak` a second at 16, and more in bursts."""
    rng = random.Random(seed)
    shares = [share for share, _, _ in MIX]
    bursts = list(_moments(rng, 1 / BURST_EVERY_S))
    pictures = []
    for moment in _moments(rng, BURST_TIMES * peak):
        burst = any(start <= moment < start + BURST_S for start in bursts)
        asked = hour_share(moment) * (BURST_TIMES if burst else 1)
        if rng.random() < asked / BURST_TIMES:
            [(_, rows, steps)] = rng.choices(MIX, shares)
            pictures.append(Picture(moment, rows, steps))
    return pictures


def hour_share(moment: float) -> float:
    """Return how much is asked for outside bursts, of the most in a day."""
    return ((1 - math.cos(2 * math.pi * (moment / DAY_S - 4 / 24))) / 2) ** 2


def _moments(rng: random.Random, rate: float) -> Iterator[float]:
    moment = rng.expovariate(rate)
    while moment < DAY_S:
        yield moment
        moment += rng.expovariate(rate)


def read_deployments(config: Path, curve: Path | None, start_s: float) -> dict[str, Deployment]:
    """Return the stages of a config's first model that scales. Raises StopIteration: there is none."""
    applications: list[dict[str, Any]] = yaml.safe_load(config.read_text(encoding="utf-8"))["applications"]
    model = next(app for app in applications if "autoscaling_policy" in app)
    given = {deployment["name"]: deployment for deployment in model["deployments"]}
    most_rows = given[DENOISER]["user_config"]["max_rows"]
    seconds = {ENCODER: [0.0, ENCODE_S], DECODER: [0.0, DECODE_S]}
    seconds[DENOISER] = [STEP_S + ROW_S * rows for rows in range(most_rows + 1)]
    if curve:
        known = read_curve(curve)
        seconds = {ENCODER: [0.0, known.encode_s], DECODER: [0.0, known.decode_s]}
        seconds[DENOISER] = [known.curve.step_s(rows, known.cells) for rows in range(most_rows + 1)]
    look_back_s = AutoscalingConfig(**given["Model"]["autoscaling_config"]).look_back_period_s
    return {
        name: Deployment(
            scaling=AutoscalingConfig(**given[name]["autoscaling_config"] | {"look_back_period_s": look_back_s}),
            gpus=given[name]["ray_actor_options"].get("num_gpus", 0),
            start_s=start_s,
            step_s=step_s,
        )
        for name, step_s in seconds.items()
    }


def by_work(deployments: Mapping[str, Deployment]) -> Policy:
    """Return Darkroom's policy, as `keep_step` asks it."""
    stage_s = {name: deployments[name].step_s[1] for name in (ENCODER, DECODER)}
    most = deployments[DENOISER].scaling.max_replicas
    return lambda seen: stages(seen.demand, stage_s, most)


def by_requests(target: int) -> Policy:
    """Return Serve's default policy."""

    def policy(seen: Seen) -> dict[str, int]:
        return {stage: math.ceil(ongoing / target) for stage, ongoing in seen.ongoing.items()}

    return policy


def as_it_comes(deployments: Mapping[str, Deployment]) -> dict[str, Deployment]:
    """Return the same bounds with Serve's own delays."""
    return {
        name: replace(each, scaling=_between(each.scaling.min_replicas, each.scaling.max_replicas))
        for name, each in deployments.items()
    }


def fixed(deployments: Mapping[str, Deployment], denoisers: int) -> dict[str, Deployment]:
    """Return a fleet of so many Denoisers, with as many encoders and decoders as they can make use of."""
    full = deployments[DENOISER].step_s
    picture_s = sum(share * rows * steps for share, rows, steps in MIX) * full[-1] / (len(full) - 1)
    counts = {name: math.ceil(denoisers / picture_s * deployments[name].step_s[1]) for name in (ENCODER, DECODER)}
    counts[DENOISER] = denoisers
    return {name: replace(each, scaling=_between(counts[name], counts[name])) for name, each in deployments.items()}


def _between(least: int, most: int) -> AutoscalingConfig:
    return AutoscalingConfig(min_replicas=least, max_replicas=most)


def compare(deployments: Mapping[str, Deployment], pictures: Sequence[Picture], seed: int) -> dict[Name, Outcome]:
    """Return what came of the day under each policy."""

    def run(fleet: Mapping[str, Deployment], policy: Policy) -> Outcome:
        return Fleet(fleet, policy, seed).run(pictures, DAY_S)

    found = {(OURS, ""): run(deployments, by_work(deployments))}
    for target in TARGETS:
        found[SERVES, f"target {target}"] = run(as_it_comes(deployments), by_requests(target))
    for denoisers in range(1, deployments[DENOISER].scaling.max_replicas + 1):
        fleet = fixed(deployments, denoisers)
        found[FIXED, f"{denoisers} all day"] = run(fleet, by_work(fleet))
    return found


def show(found: Mapping[Name, Outcome], within_s: float) -> dict[str, dict[str, float]]:
    """Print the table; return its figures."""
    print(f"{'':28}{'GPU-hours':>10}{f'in {within_s:g} s':>10}{'p50, s':>8}{'p99, s':>8}{'changes':>9}")
    figures = {}
    for (family, name), outcome in found.items():
        took = sorted(outcome.took_s)
        share, p50, p99 = outcome.within(within_s), percentile(took, 0.5), percentile(took, 0.99)
        changes = sum(one != other for (_, one), (_, other) in pairwise(outcome.denoisers))
        label = f"{family}, {name}" if name else family
        print(f"{label:28}{outcome.gpu_hours:10.1f}{share:10.2%}{p50:8.1f}{p99:8.1f}{changes:9}")
        figures[label] = {"gpu_hours": round(outcome.gpu_hours, 1), "within": round(share, 4), "p99_s": round(p99, 1)}
    return figures


def plot(path: Path, found: Mapping[Name, Outcome], within_s: float) -> None:
    """Draw the day under our policy and Serve's default, and what each policy costs and attains."""
    shown = {OURS: found[OURS, ""], f"{SERVES}, target {TARGETS[0]}": found[SERVES, f"target {TARGETS[0]}"]}
    lines = {name: [(at / 3600, count) for at, count in each.denoisers if at < DAY_S] for name, each in shown.items()}
    dots = [
        (family, name or family, outcome.gpu_hours, outcome.within(within_s))
        for (family, name), outcome in found.items()
    ]
    draw_day(path, lines, dots, within_s)


def main() -> None:
    """Print the table; draw the plot."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscale_sim", description=summary)
    parser.add_argument("--config", type=Path, default=ROOT / "ops/configs/multi-gpu.yaml", help="whose model scales")
    parser.add_argument("--curve", type=Path, help="a file that `python -m benchmarks.curve` wrote")
    parser.add_argument("--start-s", type=float, default=60.0, help="until a new replica takes its first picture")
    parser.add_argument("--peak", type=float, default=2.0, help="pictures a second, in the afternoon outside bursts")
    parser.add_argument("--within-s", type=float, default=30.0, help="seconds within which a picture should be done")
    parser.add_argument("--seed", type=int, default=0, help="of the day")
    parser.add_argument("--plot", type=Path, help="a PNG to draw")
    args = parser.parse_args()
    pictures = a_day(args.peak, args.seed)
    print(
        f"{len(pictures)} pictures in a day, at most {args.peak:g} a second and {BURST_TIMES:g} times that in bursts\n"
    )
    found = compare(read_deployments(args.config, args.curve, args.start_s), pictures, args.seed)
    figures = show(found, args.within_s)
    if args.plot:
        plot(args.plot, found, args.within_s)
    finish("autoscale_sim", {"pictures": len(pictures), "within_s": args.within_s, "policies": figures})


if __name__ == "__main__":
    main()
