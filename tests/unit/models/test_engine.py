"""The engine: batching never shows, cancelling is prompt, and only the guilty fails."""

import threading

import numpy as np
import pytest
import torch

from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine
from models.denoiser.preview import Preview
from models.denoiser.state import DenoiseState
from models.errors import DarkroomError, InvalidRequest, NonFinite, OutOfMemory, Unavailable
from models.spec import StepUpdate
from tests.stages import Stages, other


@pytest.fixture(scope="module")
def stages(tiny_sd) -> Stages:
    return Stages(tiny_sd)


def pixels(stages: Stages, latents: np.ndarray) -> np.ndarray:
    return stages.pixels(latents)[0].astype(int)


@pytest.mark.parametrize("joined_at", [0, 1, 3])
def test_a_late_joiner_gets_the_picture_it_would_get_alone(stages, joined_at):
    mine = stages.spec(seed=3, num_inference_steps=5, guidance_scale=4.0, sampler="dpmpp_2m")
    alone = stages.latents(mine)
    neighbours = [
        other(mine, seed=1, num_inference_steps=8, sampler="euler", guidance_scale=1.0),
        other(mine, seed=2, prompt="a star", sampler="ddim", guidance_scale=9.0),
    ]
    for spec in neighbours:
        stages.engine._batcher.add(stages.state(spec))
    with torch.inference_mode():
        for _ in range(joined_at):
            stages.engine.step()
    together = stages.denoise(stages.state(mine))[0]
    assert np.abs(pixels(stages, together) - pixels(stages, alone)).max() <= 1
    assert np.linalg.norm(together - alone) / np.linalg.norm(alone) < 1e-4


def test_pictures_of_different_sizes_are_drawn_side_by_side(stages):
    small = stages.spec(seed=1, num_inference_steps=3)
    large = other(small, width=small.width + 32)
    latents = stages.denoise(stages.state(small), stages.state(large))
    assert [item.shape[-1] for item in latents] == [small.width // 2, large.width // 2]


def test_updates_count_steps_and_the_last_one_carries_the_latents(stages):
    state = stages.state(stages.spec(num_inference_steps=4))
    stages.denoise(state)
    updates = stages.outcomes(state)
    assert [(update.step, update.steps) for update in updates] == [(k, 4) for k in (1, 2, 3, 4)]
    assert [update.latents is not None for update in updates] == [False, False, False, True]
    assert {(update.batch_rows, update.batch_images) for update in updates} == {(2, 1)}


def test_an_update_says_how_many_pictures_shared_the_forward(tiny_sd):
    stages = Stages(tiny_sd)  # that has measured nothing: on a busy machine others have learnt to forward fewer rows
    guided, unguided = (
        stages.state(stages.spec(num_inference_steps=steps, guidance_scale=scale))
        for steps, scale in ((2, 4.0), (1, 1.0))
    )
    run(stages, guided, unguided)
    shares = [(update.batch_rows, update.batch_images) for update in stages.outcomes(guided)]
    assert shares == [(3, 2), (2, 1)]  # the other leaves after its only step


def test_an_update_says_how_many_rows_a_forward_was_filled_up_to(tiny_sd):
    padded = Stages(tiny_sd, padded=True)
    guided, unguided = (padded.state(padded.spec(num_inference_steps=1, guidance_scale=scale)) for scale in (4.0, 1.0))
    padded.denoise(guided, unguided)
    [update] = padded.outcomes(guided)
    assert (update.batch_rows, update.forward_rows) == (3, 4)


def test_a_forward_that_raises_fails_only_the_picture_that_makes_it_raise(stages, monkeypatch):
    predict = stages.model.predict
    good, bad = (stages.state(stages.spec(seed=seed, num_inference_steps=3)) for seed in (1, 2))
    poison = bad.conditioning[1]

    def picky(batch, padded_rows):
        if any(row is poison for row in batch.conditioning):
            raise RuntimeError("no")
        return predict(batch, padded_rows)

    monkeypatch.setattr(stages.model, "predict", picky)
    for state in (good, bad):
        stages.engine._batcher.add(state)
    with torch.inference_mode():
        while len(stages.engine._batcher):
            stages.engine.step()
    assert isinstance(stages.outcomes(bad)[-1], DarkroomError)
    last = stages.outcomes(good)[-1]
    assert isinstance(last, StepUpdate)
    assert last.latents is not None


def run(stages: Stages, *states: DenoiseState) -> None:
    for state in states:
        stages.engine._batcher.add(state)
    with torch.inference_mode():
        while len(stages.engine._batcher):
            stages.engine.step()


def test_a_picture_that_is_not_finite_fails_at_that_step_and_alone(stages):
    bad, good = (stages.state(stages.spec(num_inference_steps=3, seed=seed)) for seed in (1, 2))
    bad.history[0, 0, 0, 0] = float("nan")
    run(stages, bad, good)
    assert [type(outcome) for outcome in stages.outcomes(bad)] == [NonFinite]
    assert stages.outcomes(good)[-1].latents is not None


def test_where_memory_runs_out_the_rows_are_halved_and_nothing_is_lost(tiny_sd, monkeypatch):
    stages = Stages(tiny_sd)
    predict, seen = stages.model.predict, []

    def small(batch, padded_rows):
        seen.append(padded_rows)
        if padded_rows > 4:
            raise torch.OutOfMemoryError
        return predict(batch, padded_rows)

    monkeypatch.setattr(stages.model, "predict", small)
    states = [stages.state(stages.spec(num_inference_steps=2, seed=seed)) for seed in range(5)]
    run(stages, *states)
    assert (seen[0], max(seen[1:])) == (10, 4)
    assert all(stages.outcomes(state)[-1].latents is not None for state in states)


def test_a_picture_that_does_not_fit_even_alone_is_an_error_of_its_own(tiny_sd, monkeypatch):
    stages = Stages(tiny_sd)

    def none_fits(*inputs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(stages.model, "predict", none_fits)
    states = [stages.state(stages.spec(guidance_scale=guidance)) for guidance in (1.0, 1.0, 4.0)]
    run(stages, *states)
    assert [type(stages.outcomes(state)[-1]) for state in states] == [OutOfMemory] * 3


def test_the_warm_up_ends_where_memory_does(stages, monkeypatch):
    predict = stages.model.predict

    def small(batch, padded_rows=None):
        if max(len(batch.latents), padded_rows or 0) > 4:
            raise torch.OutOfMemoryError
        return predict(batch, padded_rows)

    monkeypatch.setattr(stages.model, "predict", small)
    key = stages.state(stages.spec()).key
    sizer = BatchSizer(stages.model, 16)
    sizer.warm_up(key)
    assert sizer.max_rows == 4
    assert sorted(rows for rows, _ in sizer.curve.seconds) == [1, 2, 4]
    assert BatchSizer(stages.model, 6, batch_invariant=True).next_rows(key) <= 4


def test_a_device_in_a_sticky_error_ends_the_process(tiny_sd, monkeypatch):
    stages, ended = Stages(tiny_sd), []

    def broken(*inputs):
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(stages.model, "predict", broken)
    monkeypatch.setattr(stages.engine, "_die", lambda: ended.append(True))
    with pytest.raises(torch.AcceleratorError):
        run(stages, stages.state(stages.spec()))
    assert ended == [True]


class Running:
    """An engine on its thread, with the outcomes it published and a bell for each."""

    def __init__(self, stages: Stages, **options: bool) -> None:
        self.outcomes: list = []
        self.bell = threading.Condition()
        self.engine = DenoisingEngine(
            stages.model, self._publish, sizer=BatchSizer(stages.model, 4, **options), preview=Preview(())
        )
        self.engine.start()

    def _publish(self, outcomes: list) -> None:
        with self.bell:
            self.outcomes += outcomes
            self.bell.notify_all()

    def wait_for(self, condition) -> None:
        with self.bell:
            assert self.bell.wait_for(lambda: condition(self.outcomes), timeout=30)


def test_the_thread_draws_what_is_submitted_and_a_cancelled_picture_leaves_within_a_step(stages):
    running = Running(stages)
    long = stages.state(stages.spec(num_inference_steps=150))
    running.engine.submit(long)
    running.wait_for(lambda outcomes: len(outcomes) >= 2)
    with running.bell:
        long.cancelled = True
        at_cancel = len(running.outcomes)
    short = stages.state(stages.spec(seed=1, num_inference_steps=2))
    running.engine.submit(short)
    running.wait_for(lambda outcomes: any(s is short and o.latents is not None for s, o in outcomes))
    after = [state for state, _ in running.outcomes[at_cancel:] if state is long]
    assert len(after) <= 1
    running.engine.check_health()
    running.engine.stop()
    with pytest.raises(Unavailable, match="died"):
        running.engine.check_health()


def test_a_picture_whose_bits_cannot_be_promised_fails_and_the_thread_lives(stages, monkeypatch):
    predict, cells = stages.model.predict, stages.state(stages.spec()).key.cells

    def restless(batch, padded_rows=None):
        output = predict(batch, padded_rows)
        return output if batch.latents[0, 0].numel() == cells else output + torch.randn_like(output)

    monkeypatch.setattr(stages.model, "predict", restless)
    running = Running(stages, batch_invariant=True)
    good = stages.state(stages.spec(num_inference_steps=2))
    wide = stages.state(other(good.spec, width=good.spec.width + 32))
    for state in (wide, good):
        running.engine.submit(state)
    running.wait_for(lambda outcomes: any(o.latents is not None for s, o in outcomes if s is good))
    [refused] = [outcome for state, outcome in running.outcomes if state is wide]
    assert isinstance(refused, InvalidRequest)
    assert refused.message.startswith(f"{refused.param}: ")  # which each dialect replaces with its own name
    running.engine.stop()


def test_a_cap_on_rows_changes_between_two_steps_and_every_picture_goes_on_as_it_was(stages):
    running = Running(stages)
    specs = [stages.spec(seed=seed, num_inference_steps=40) for seed in range(2)]
    alone = [pixels(stages, stages.latents(spec)) for spec in specs]
    states = [stages.state(spec) for spec in specs]
    for state in states:
        running.engine.submit(state)
    running.wait_for(lambda outcomes: any(o.batch_rows == 4 for _, o in outcomes))
    running.engine.configure(2, 1.0, states[0].key).result(timeout=30)
    with running.bell:
        changed_at = len(running.outcomes)
    running.wait_for(lambda outcomes: sum(o.latents is not None for _, o in outcomes) == 2)
    assert {update.batch_rows for _, update in running.outcomes[changed_at + 1 :]} == {2}
    for state, picture in zip(states, alone, strict=True):
        drawn = next(o.latents for s, o in running.outcomes if s is state and o.latents is not None)
        assert np.abs(pixels(stages, drawn) - picture).max() <= 1
    running.engine.stop()


def test_more_rows_are_measured_before_the_change_is_said_to_be_made(stages):
    running, key = Running(stages), stages.state(stages.spec()).key
    running.engine.configure(8, 1.0, key).result(timeout=30)
    assert sorted(rows for rows, _ in running.engine._sizer.curve.seconds) == [1, 2, 4, 8]
    running.engine.stop()


def test_rows_that_bits_depend_on_do_not_change_under_a_picture(stages):
    running, key = Running(stages, batch_invariant=True), stages.state(stages.spec()).key
    running.engine.configure(4, 1.0, key).result(timeout=60)
    with pytest.raises(ValueError, match="max_rows"):
        running.engine.configure(2, 1.0, key).result(timeout=30)
    running.engine.configure(4, 0.5, key).result(timeout=30)
    running.engine.stop()
