"""The plan against pictures that are batched one step after the other, as the engine does it, and what it refuses."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.plan import PICTURES, WARM, Curve, Unplannable, find_curve, latencies, percentile, plan, read_curve
from models.denoiser.step_batcher import StepBatcher
from models.denoiser.step_curve import StepCurve

SIZE = (128, 128)
CURVE = Curve(
    device="a device",
    model="a model",
    rows=2,
    steps=20,
    size=SIZE,
    encode_s=0.01,
    decode_s=0.05,
    curve=StepCurve({(rows, SIZE[0] * SIZE[1]): 0.008 + 0.007 * rows for rows in (1, 2, 4, 8, 16)}),
)


@dataclass(frozen=True)
class Key:
    cells: int = SIZE[0] * SIZE[1]


class Picture:
    """What the engine's batcher sees of a picture."""

    def __init__(self, arrived: float) -> None:
        self.key, self.rows, self.arrived, self.left = Key(), CURVE.rows, arrived, CURVE.steps

    @property
    def finished(self) -> bool:
        return self.left == 0

    def advance(self, _: None) -> None:
        self.left -= 1


def stepped(rate: float, seed: int) -> list[float]:
    """Seconds from arrival to file with one replica of each stage, one forward after the other."""
    rng, clock, arrivals = random.Random(seed), 0.0, []
    for _ in range(PICTURES):
        clock += rng.expovariate(rate)
        arrivals.append(clock)
    batcher: StepBatcher[Picture] = StepBatcher(lambda _: CURVE.batch_rows)
    took, now, encoder_free, decoder_free, waiting = [], 0.0, 0.0, 0.0, []
    for arrival in arrivals:
        encoder_free = max(encoder_free, arrival) + CURVE.encode_s
        waiting.append((encoder_free, arrival))
    waiting.reverse()
    while waiting or len(batcher):
        if not len(batcher):
            now = max(now, waiting[-1][0])
        while waiting and waiting[-1][0] <= now:
            batcher.add(Picture(waiting.pop()[1]))
        batch = batcher.next_batch()
        now += CURVE.curve.step_s(sum(picture.rows for picture in batch), Key().cells)
        for picture in batcher.advance(batch, [None] * len(batch)):
            decoder_free = max(decoder_free, now) + CURVE.decode_s
            took.append(decoder_free - picture.arrived)
    return sorted(took[WARM:])


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_the_planned_percentiles_are_those_of_pictures_batched_step_by_step(load: float) -> None:
    rate = load * 8 / (20 * CURVE.curve.step_s(16, Key().cells))
    planned, real = latencies(CURVE, rate, 1, 1, 1, seed=7), stepped(rate, seed=7)
    for share in (0.5, 0.95):
        assert percentile(planned, share) == pytest.approx(percentile(real, share), rel=0.1), share


def test_more_to_draw_takes_more_denoisers_and_one_less_would_not_do() -> None:
    plans = [plan(CURVE, rate, p95_s=1.5) for rate in (1, 4, 16, 64)]
    counts = [found.denoisers for found in plans]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    last = plans[-1]
    fewer = latencies(CURVE, 64, last.text_encoders, last.denoisers - 1, last.vaes, seed=0)
    assert percentile(fewer, 0.95) > 1.5 >= last.p95_s


def test_decoders_are_as_many_as_their_work_takes() -> None:
    assert plan(CURVE, 64, p95_s=1.5).vaes >= 64 * CURVE.decode_s


def test_the_same_seed_gives_the_same_plan() -> None:
    assert plan(CURVE, 9, p95_s=1.5, seed=3) == plan(CURVE, 9, p95_s=1.5, seed=3)


def test_what_one_picture_alone_does_not_reach_is_refused() -> None:
    with pytest.raises(Unplannable, match="One picture alone takes"):
        plan(CURVE, 1, p95_s=0.3)


def test_what_was_never_measured_is_refused_with_the_way_to_measure_it() -> None:
    with pytest.raises(Unplannable, match=r"python -m benchmarks.curve .* --out sdxl-h200.json"):
        find_curve("sdxl", "h200")


def test_a_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    known = {
        "model": "m",
        "device": "d",
        "width": 64,
        "height": 32,
        "rows": 2,
        "steps": 9,
        "encode_s": 0.1,
        "decode_s": 0.2,
    }
    (tmp_path / "curve.json").write_text(json.dumps(known | {"step_s": {"1": 0.1, "4": 0.3}}))
    curve = read_curve(tmp_path / "curve.json")
    assert (curve.steps, curve.size, curve.curve.step_s(4, curve.cells)) == (9, (64, 32), 0.3)
