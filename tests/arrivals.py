"""An engine with images that arrive, leave and fail, and what each of them is alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from models.denoiser.state import DenoiseState
from models.errors import DarkroomError
from models.families.base import Batch
from models.spec import EncodedImage, ImageSpec, InitImage
from tests.stages import CPU, Stages, other

MAX_ROWS = 6
POISON = 1e6  # in a prompt's embedding: the model raises


@dataclass(frozen=True)
class Arrival:
    """An image, when it joins, and how it leaves."""

    spec: ImageSpec
    comes: int  # before this step of the engine
    leaves: int | None  # cancelled before this step
    poisonous: bool


class EngineHarness:
    """Stages with and without a promise of bits, and what each picture is alone."""

    def __init__(self, folder: Path, device: torch.device = CPU, *, invariant: bool) -> None:
        self.stages = stages = Stages(folder, MAX_ROWS, device, batch_invariant=invariant)
        stages.model.predict = picky(stages.model.predict)
        self.invariant = invariant
        self.alone: Callable[[ImageSpec], np.ndarray] = cache(
            lambda spec: stages.latents(spec, image=first_image(stages, spec))
        )

    def run(self, arrivals: list[Arrival]) -> Iterator[tuple[Arrival, np.ndarray | DarkroomError | None]]:
        """Run the engine until all have gone; yield each arrival with its latents, its error, or None if it left."""
        stages = self.stages
        states = [(arrival, self._state(arrival)) for arrival in arrivals]
        step = 0
        with torch.inference_mode():
            while len(stages.engine._batcher) or any(arrival.comes >= step for arrival in arrivals):
                for arrival, state in states:
                    if arrival.leaves == step:
                        state.cancelled = True
                    if arrival.comes == step and not state.cancelled:
                        stages.engine._batcher.add(state)
                stages.engine._batcher.remove([state for _, state in states if state.cancelled])
                stages.engine.step()
                step += 1
        for arrival, state in states:
            last = (stages.outcomes(state) or [None])[-1]
            yield arrival, last if isinstance(last, DarkroomError) or last is None else last.latents
        stages.published.clear()

    def _state(self, arrival: Arrival) -> DenoiseState:
        state = self.stages.state(arrival.spec, image=first_image(self.stages, arrival.spec))
        if arrival.poisonous:
            poisoned = state.conditioning[-1]["encoder_hidden_states"].clone()
            poisoned[0, 0] = POISON
            state.conditioning = [*state.conditioning[:-1], {"encoder_hidden_states": poisoned}]
        return state


def first_image(stages: Stages, spec: ImageSpec) -> EncodedImage | None:
    """What an image begins with, and of which half of it is made anew if there is a mask.

    Those of odd seeds begin with latents that are given, as second passes do.
    """
    if spec.init is None:
        return None
    shape = spec.height, spec.width
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = np.zeros(shape, bool) if spec.init.mask else None
    if mask is not None:
        mask[: spec.height // 2] = True
    encoded = stages.encoded(pixels, mask)
    return replace(encoded, std=None) if spec.seed % 2 else encoded


def picky(predict: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A model that raises where it meets poison."""

    def wrapped(batch: Batch, padded_rows: int | None = None) -> torch.Tensor:
        if any(row["encoder_hidden_states"][0, 0] == POISON for row in batch.conditioning):
            raise RuntimeError("poison")
        return predict(batch, padded_rows)

    return wrapped


def arrivals(stages: Stages) -> st.SearchStrategy[list[Arrival]]:
    base = stages.spec()
    init = st.builds(
        InitImage,
        input=st.just("an image"),
        strength=st.sampled_from([0.5, 0.75, 1.0]),
        mask=st.none() | st.just("a mask"),
    )
    spec = st.builds(
        other,
        st.just(base),
        seed=st.integers(0, 3),
        num_inference_steps=st.integers(1, 4),
        guidance_scale=st.sampled_from([1.0, 4.0]),
        guidance_rescale=st.sampled_from([0.0, 0.7]),
        clip_skip=st.integers(0, 1),
        sampler=st.sampled_from(["ddim", "euler_ancestral", "heun", "dpmpp_2m", "lcm"]),
        width=st.sampled_from([base.width, base.width // 2]),
        init=st.none() | init,
    ).filter(lambda spec: stages.model.family.begin(spec) < spec.num_inference_steps)
    arrival = st.builds(
        Arrival,
        spec=spec,
        comes=st.integers(0, 6),
        leaves=st.none() | st.integers(1, 9),
        poisonous=st.sampled_from([False, False, False, True]),
    )
    return st.lists(arrival, min_size=1, max_size=7)


def check(harness: EngineHarness, expected: list[Arrival]) -> None:
    for arrival, outcome in harness.run(expected):
        if arrival.poisonous:
            assert outcome is None or isinstance(outcome, DarkroomError)
        elif outcome is None:
            assert arrival.leaves is not None
        else:
            assert isinstance(outcome, np.ndarray)
            alone = harness.alone(arrival.spec)
            if harness.invariant:
                assert np.array_equal(outcome, alone)
            else:
                assert difference(harness.stages, outcome, alone) <= 1


def difference(stages: Stages, a: np.ndarray, b: np.ndarray) -> int:
    """Greatest difference of a channel, of 255."""
    first, second = (picture.astype(int) for picture in stages.pixels(a, b))
    return int(np.abs(first - second).max())
