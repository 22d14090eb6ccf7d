"""The Denoiser's shell, without Ray: whom it works for."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deployments.errors import Superseded, WeightsMismatch
from deployments.model_config import DenoiserConfig, ModelConfig
from deployments.stages.denoiser import Denoiser
from models.checkpoint.card import read_card
from models.denoiser.step_curve import StepCurve
from models.errors import UnsupportedSampler
from models.spec import ImageSpec
from models.text_encoder import EncodedPrompt, load_text_encoder
from tests.fakes import PATIENCE_S

KNOBS = {"max_rows": 2, "preview_interval_s": 60}


@pytest.fixture(scope="module")
def denoiser(shapes: Path) -> Iterator[Denoiser]:
    threads = torch.get_num_threads()
    card = replace(read_card(str(shapes)), latent_rgb=((0.1, 0.2, 0.3),) * 9)
    denoiser = Denoiser(ModelConfig(checkpoint=str(shapes), denoiser=DenoiserConfig(threads=threads)), card)
    asyncio.run(denoiser.reconfigure(KNOBS))
    yield denoiser
    denoiser._engine.stop()


@pytest.fixture(scope="module")
def spec(shapes: Path) -> ImageSpec:
    card = read_card(str(shapes))
    return ImageSpec(model=card.id, prompt="a circle", seed=7, **{**card.defaults, "num_inference_steps": 150})


@pytest.fixture(scope="module")
def encoded(shapes: Path, spec: ImageSpec) -> EncodedPrompt:
    card = read_card(str(shapes))
    [encoded] = load_text_encoder(shapes, card.family, torch.device("cpu")).encode([spec])
    return replace(encoded, model_digest=card.digest)


@pytest.fixture(autouse=True)
def death(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Of the Dispatcher: set, it has died."""
    death = asyncio.Event()
    monkeypatch.setattr("deployments.stages.denoiser.until_dead", lambda _: death.wait())
    return death


async def idle(denoiser: Denoiser) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(denoiser._engine._batcher):
            await asyncio.sleep(0.001)


async def test_a_later_dispatcher_takes_an_earlier_ones_pictures_out(
    denoiser: Denoiser, spec: ImageSpec, encoded: EncodedPrompt
) -> None:
    stream = denoiser.denoise(spec, encoded, 1, "the Dispatcher")
    assert (await anext(stream)).step < 150
    denoiser.fence(2)
    with pytest.raises(Superseded):
        await anext(stream)
    await idle(denoiser)
    assert denoiser._mailboxes == {}


async def test_also_where_nobody_reads_them_any_more(
    denoiser: Denoiser, spec: ImageSpec, encoded: EncodedPrompt
) -> None:
    stream = denoiser.denoise(spec, encoded, 2, "the Dispatcher")
    before = await anext(stream)
    denoiser.fence(3)
    await idle(denoiser)
    assert before.step < 150
    await stream.aclose()


async def test_an_earlier_dispatcher_is_refused(denoiser: Denoiser, spec: ImageSpec, encoded: EncodedPrompt) -> None:
    denoiser.fence(4)
    with pytest.raises(Superseded):
        await anext(denoiser.denoise(spec, encoded, 3, "the Dispatcher"))
    with pytest.raises(Superseded):
        denoiser.fence(3)
    async with asyncio.timeout(PATIENCE_S):
        short = replace(spec, num_inference_steps=10)
        steps = [update.step async for update in denoiser.denoise(short, encoded, 5, "the Dispatcher")]
    assert steps[-1] == 10


async def test_the_pictures_of_a_dispatcher_that_dies_are_left(
    denoiser: Denoiser, spec: ImageSpec, encoded: EncodedPrompt, death: asyncio.Event
) -> None:
    stream = denoiser.denoise(spec, encoded, 6, "the Dispatcher")
    before = await anext(stream)
    death.set()
    await idle(denoiser)
    assert before.step < 150
    await stream.aclose()
    with pytest.raises(Superseded):  # it was on its way
        await anext(denoiser.denoise(spec, encoded, 6, "the Dispatcher"))


async def test_the_death_of_one_that_was_taken_over_from_touches_nothing(
    denoiser: Denoiser, spec: ImageSpec, encoded: EncodedPrompt, death: asyncio.Event
) -> None:
    first = denoiser.denoise(spec, encoded, 7, "the Dispatcher")
    await anext(first)
    death_of_the_next = asyncio.Event()
    denoiser.fence(8)
    death.set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deployments.stages.denoiser.until_dead", lambda _: death_of_the_next.wait())
        async with asyncio.timeout(PATIENCE_S):
            short = replace(spec, num_inference_steps=10)
            steps = [update.step async for update in denoiser.denoise(short, encoded, 8, "the next Dispatcher")]
    assert steps[-1] == 10
    with pytest.raises(Superseded):
        await anext(first)


@pytest.mark.parametrize(
    ("user_config", "named"),
    [
        ({"max_rows": 1}, ("max_rows", "greater than or equal to 2", "input_value=1")),
        ({"preview_interval_s": 0}, ("preview_interval_s", "greater than or equal to 0.05", "input_value=0")),
        ({"max_row": 8}, ("max_row", "not permitted", "input_value=8")),
    ],
)
async def test_a_knob_out_of_bounds_is_refused_with_key_value_and_bound(
    denoiser: Denoiser, user_config: dict[str, float], named: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="DenoiserKnobs") as caught:
        await denoiser.reconfigure(user_config)
    assert all(word in str(caught.value) for word in named)


async def test_knobs_apply_while_a_picture_is_drawn(
    denoiser: Denoiser, spec: ImageSpec, encoded: EncodedPrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(spec, num_inference_steps=40)
    before = await anext(stream := denoiser.denoise(spec, encoded, 9, "the Dispatcher"))
    assert (before.most_rows, before.preview) == (2, None)
    monkeypatch.setattr(StepCurve, "best_rows", lambda self, cells, most: most)
    async with asyncio.timeout(PATIENCE_S):
        await denoiser.reconfigure({"max_rows": 4, "preview_interval_s": 0.05})
        rest = [update async for update in stream]
    assert rest[-1].most_rows == 4
    assert any(update.preview for update in rest)
    assert rest[-1].step == 40


async def test_embeddings_of_other_weights_are_refused(
    denoiser: Denoiser, spec: ImageSpec, encoded: EncodedPrompt
) -> None:
    updates = denoiser.denoise(spec, replace(encoded, model_digest="f" * 64), 1, "nobody")
    with pytest.raises(WeightsMismatch):
        await anext(updates)
    assert not denoiser._mailboxes


async def test_a_plan_that_cannot_be_compiled_is_refused_with_the_field_and_without_names_of_classes(
    denoiser: Denoiser, spec: ImageSpec, caplog: pytest.LogCaptureFixture
) -> None:
    await denoiser.compile_plan(spec)
    with pytest.raises(UnsupportedSampler) as caught:
        await denoiser.compile_plan(replace(spec, sampler="lcm", num_inference_steps=51))
    assert caught.value.param == "num_inference_steps"
    assert caught.value.message == (
        "num_inference_steps must be another number: with this model, lcm gives no image in 51 steps. "
        "Another sampler may."
    )
    assert "lcm at 51 steps" in caplog.text, "the log has the scheduler's reason"
