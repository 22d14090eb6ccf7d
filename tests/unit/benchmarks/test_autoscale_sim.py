"""The simulated fleet: nothing is lost in it, its times are those of the curve, and cost follows the load."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ray.serve.config import AutoscalingConfig

from benchmarks.autoscale_sim import (
    DAY_S,
    OURS,
    SERVES,
    TARGETS,
    a_day,
    by_requests,
    by_work,
    fixed,
    plot,
    read_deployments,
)
from benchmarks.fleet import DECODER, DENOISER, ENCODER, Deployment, Fleet, Outcome, Picture, Policy
from benchmarks.harness import ROOT

HOUR_S = 3600.0
START_S = 20.0
STEP_S = [0.01 + 0.025 * rows for rows in range(17)]
SECONDS = {ENCODER: [0.0, 0.02], DENOISER: STEP_S, DECODER: [0.0, 0.1]}
BOUNDS: dict[str, Any] = {"min_replicas": 0, "max_replicas": 8, "upscale_delay_s": 0, "downscale_delay_s": 60}
STAGES = {name: Deployment(AutoscalingConfig(**BOUNDS), 1.0, START_S, step_s) for name, step_s in SECONDS.items()}


def an_hour(rate: float, seed: int = 0) -> list[Picture]:
    rng = random.Random(seed)
    moments = sorted(rng.uniform(0, HOUR_S) for _ in range(round(rate * HOUR_S)))
    return [Picture(moment, *rng.choice([(1, 4), (2, 20), (2, 50)])) for moment in moments]


def run(
    pictures: Sequence[Picture], stages: Mapping[str, Deployment] = STAGES, policy: Policy | None = None
) -> Outcome:
    return Fleet(stages, policy or by_work(stages), seed=0).run(pictures, HOUR_S)


@pytest.mark.parametrize("policy", [by_work(STAGES), by_requests(2), by_requests(16)])
def test_every_picture_is_made_once_whatever_comes_and_goes_meanwhile(policy: Policy) -> None:
    pictures = an_hour(1.5)
    outcome = run(pictures, policy=policy)
    assert len({count for _, count in outcome.denoisers}) > 1
    assert len(outcome.took_s) == len(pictures)
    assert min(outcome.took_s) >= 0.02 + 4 * STEP_S[1] + 0.1 - 1e-6


def test_a_picture_alone_takes_what_its_stages_take() -> None:
    stages = fixed(STAGES, 1)
    [took_s] = run([Picture(100.0, 2, 20)], stages).took_s
    assert took_s == pytest.approx(0.02 + 20 * STEP_S[2] + 0.1)


def test_pictures_share_the_steps_of_a_replica_within_its_rows() -> None:
    instant = {ENCODER: [0.0, 1e-9], DENOISER: STEP_S, DECODER: [0.0, 1e-9]}
    stages = {name: replace(each, step_s=instant[name]) for name, each in fixed(STAGES, 1).items()}
    took = run([Picture(100.0, 2, 10)] * 9, stages).took_s
    assert took == pytest.approx([10 * STEP_S[16]] * 8 + [10 * STEP_S[16] + 10 * STEP_S[2]])


def test_a_fleet_that_is_large_enough_has_every_picture_done_in_time() -> None:
    outcome = run(an_hour(1.0), fixed(STAGES, 8))
    assert outcome.within(10.0) == 1.0
    assert run(an_hour(1.0), fixed(STAGES, 1)).within(10.0) < 0.5


def test_a_fixed_fleet_costs_its_replicas_all_the_time() -> None:
    assert run([Picture(0.0, 2, 20)], fixed(STAGES, 3)).gpu_s[DENOISER] == 3 * HOUR_S


@pytest.mark.parametrize("policy", [by_work(STAGES), by_requests(4)])
def test_more_load_never_costs_less(policy: Policy) -> None:
    costs = [run(an_hour(rate), policy=policy).gpu_hours for rate in (0.0, 0.1, 0.4, 1.6)]
    assert costs == sorted(costs)
    assert costs[0] == 0.0


def test_nothing_is_held_at_night_and_the_first_picture_in_the_morning_waits_for_a_start() -> None:
    evening, morning = Picture(0.0, 2, 20), Picture(HOUR_S / 2, 2, 20)
    outcome = run([evening, morning])
    counts = [count for at, count in outcome.denoisers if 600 < at < HOUR_S / 2]
    assert set(counts) == {0}
    assert START_S < outcome.took_s[1] < 2 * START_S
    assert outcome.gpu_s[DENOISER] < 1000


def test_a_replica_that_leaves_finishes_what_it_has() -> None:
    long = [Picture(START_S + 10 + k / 10, 2, 3000) for k in range(12)]
    turns = chain([3] * 5, repeat(1))
    outcome = run(long, policy=lambda seen: {ENCODER: 1, DENOISER: next(turns), DECODER: 1})
    wanted = dict(outcome.denoisers)
    assert (wanted[40], wanted[120]) == (3, 1)
    assert len(outcome.took_s) == len(long)
    assert min(outcome.took_s) > 3000 * STEP_S[2]
    assert outcome.gpu_s[DENOISER] > HOUR_S + 2 * 3000 * STEP_S[2]  # two stayed until theirs were done


def test_the_same_seed_gives_the_same_day() -> None:
    assert a_day(0.01, 3) == a_day(0.01, 3) != a_day(0.01, 4)


def test_a_day_is_busier_in_the_afternoon_than_at_night() -> None:
    by_hour = [0] * 24
    for picture in a_day(0.05, 0):
        by_hour[int(picture.arrives_s / DAY_S * 24)] += 1
    assert 20 * sum(by_hour[2:6]) < sum(by_hour[14:18])


def test_bounds_and_delays_are_those_of_the_config() -> None:
    stages = read_deployments(ROOT / "ops/configs/two-models.yaml", None, START_S)
    assert {each.scaling.min_replicas for each in stages.values()} == {0}
    assert stages[DENOISER].scaling.downscale_delay_s == 60
    assert stages.keys() == {ENCODER, DENOISER, DECODER}


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    found = {(OURS, ""): run(an_hour(0.1)), (SERVES, f"target {TARGETS[0]}"): run(an_hour(0.1), policy=by_requests(2))}
    plot(tmp_path / "plot.png", found, within_s=30.0)
    with Image.open(tmp_path / "plot.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 16) or []) > 2
