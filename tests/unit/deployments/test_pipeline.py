"""One picture through the three stages, without Ray: what happens where one of them has no replica."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentID

from deployments import pipeline as pipeline_module
from deployments.dispatcher.lease import Lease
from deployments.errors import ReplicaLost
from deployments.image_store import StoredImage
from deployments.pipeline import Pipeline
from models.errors import InvalidRequest, NonFinite, UnsupportedSampler
from models.hires import Hires
from models.spec import ImageSpec, StepUpdate
from tests.fakes import a_spec

LEASE = Lease("job_x", 0)
LAST = StepUpdate(step=2, steps=2, latents=np.zeros((4, 2, 2), np.float32))


class Stage:
    """A deployment: the first calls fail as they are told to, those after answer."""

    def __init__(self, answer: Any, *failures: Exception) -> None:
        self.calls = 0
        self._answer = answer
        self._failures = iter(failures)

    def options(self, stream: bool) -> "Stage":
        return self

    def __getattr__(self, method: str) -> "Stage":
        return self

    def remote(self, *_: object) -> Any:
        self.calls += 1
        failure = next(self._failures, None)
        if self._answer is LAST:
            return Stream(failure)
        return self._answer and _answered(self._answer, failure)


async def _answered(answer: Any, failure: Exception | None) -> Any:
    if failure is not None:
        raise failure
    return answer


class Stream:
    """What a Denoiser says."""

    def __init__(self, failure: Exception | None) -> None:
        self._failure = failure

    async def __aiter__(self) -> AsyncIterator[StepUpdate]:
        if self._failure is not None:
            raise self._failure
        yield LAST

    def cancel(self) -> None:
        """Nothing to cancel."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Draws a picture with a Denoiser and a Vae; returns the words of the pipeline."""
    monkeypatch.setattr(pipeline_module, "AGAIN_S", 0)
    monkeypatch.setattr(pipeline_module, "own_name", lambda: "dispatcher")

    async def draw(denoiser: Stage, decoder: Stage) -> list[Any]:
        stages = {"TextEncoder": Stage(None), "Denoiser": denoiser, "Vae": decoder}
        monkeypatch.setattr(Pipeline, "_handle", lambda _, name: stages[name])
        async with asyncio.timeout(15):
            return [word async for word in Pipeline("shapes", "images").generate(a_spec(), LEASE)]

    return draw


def away(stage: str) -> Exception:
    return DeploymentUnavailableError(DeploymentID(stage, "shapes"))


async def test_a_picture_waits_for_a_stage_without_a_replica(drawn: Callable[..., Any]) -> None:
    denoiser = Stage(LAST, away("Denoiser"), away("Denoiser"))
    words = await drawn(denoiser, Stage(StoredImage(123, tiled=True)))
    assert (denoiser.calls, words[-1].size, words[-1].attempts) == (3, 123, 1)


async def test_one_that_waits_for_its_decoder_is_not_denoised_again(drawn: Callable[..., Any]) -> None:
    denoiser, decoder = Stage(LAST), Stage(StoredImage(123, tiled=True), away("Vae"), away("Vae"))
    words = await drawn(denoiser, decoder)
    assert (denoiser.calls, decoder.calls, words[-1].size) == (1, 3, 123)
    assert words[-1].tiled


async def test_what_a_stage_says_of_a_picture_is_said_at_once(drawn: Callable[..., Any]) -> None:
    with pytest.raises(NonFinite):
        await drawn(Stage(LAST, NonFinite("NaN")), Stage(StoredImage(123, tiled=True)))


async def test_a_plan_that_a_denoiser_refuses_is_refused_and_one_that_it_compiles_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    denoiser = Stage(True, UnsupportedSampler("num_inference_steps must be another number.", "num_inference_steps"))
    monkeypatch.setattr(Pipeline, "_handle", lambda *_: denoiser)
    pipeline = Pipeline("shapes", "images")
    with pytest.raises(UnsupportedSampler) as caught:
        await pipeline.compile_plan(a_spec())
    assert caught.value.param == "num_inference_steps"
    await pipeline.compile_plan(a_spec())
    assert denoiser.calls == 2


async def test_a_plan_that_nobody_waits_for_any_more_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call()
    monkeypatch.setattr(Pipeline, "_handle", lambda *_: call)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Pipeline("shapes", "images").compile_plan(a_spec())
    assert call.cancelled


class Call:
    """A deployment, its method and a call of it that is never answered."""

    def __init__(self) -> None:
        self.cancelled = False
        self.compile_plan = self

    def remote(self, _: object) -> "Call":
        return self

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.sleep(60).__await__()

    def cancel(self) -> None:
        self.cancelled = True


HIRES = Hires(scale=2.0, strength=0.5, steps=4, width=256, height=256)
TWO_PASSES = a_spec(num_inference_steps=3, hires=HIRES)


class Deployments:
    """All stages of a model: they record their calls, and answer as they do for an image of two passes."""

    def __init__(self, **failures: list[Exception | None]) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.cancelled = 0
        self._failures = failures

    def options(self, stream: bool) -> "Deployments":
        return self

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self._call(method, args))

    def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        self.calls.append((method, args))
        failures = self._failures.get(method)
        failure = failures.pop(0) if failures else None
        if method == "denoise":
            return Steps(self, args[0].model_calls, failure)
        answers = {"upscale": "a larger image", "decode": StoredImage(123, tiled=False)}
        return "a conditioning" if method == "encode" else _answered(answers[method], failure)


class Steps:
    """What a Denoiser says of one pass."""

    def __init__(self, deployments: Deployments, calls: int, failure: Exception | None) -> None:
        self._deployments, self._calls, self._failure = deployments, calls, failure

    async def __aiter__(self) -> AsyncIterator[StepUpdate]:
        for step in range(1, self._calls + 1):
            if self._failure is not None and step == self._calls:
                raise self._failure
            latents = np.full((4, 2, 2), self._calls, np.float32) if step == self._calls else None
            yield StepUpdate(step=step, steps=self._calls, denoise_s=float(step), encode_s=0.5, latents=latents)

    def cancel(self) -> None:
        self._deployments.cancelled += 1


async def generated(deployments: Deployments, monkeypatch: pytest.MonkeyPatch, spec: ImageSpec = TWO_PASSES) -> Any:
    monkeypatch.setattr(pipeline_module, "AGAIN_S", 0)
    monkeypatch.setattr(pipeline_module, "own_name", lambda: "dispatcher")
    monkeypatch.setattr(Pipeline, "_handle", lambda *_: deployments)
    async with asyncio.timeout(15):
        return [word async for word in Pipeline("shapes", "images").generate(spec, LEASE)]


async def test_an_image_of_two_passes_has_one_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    deployments = Deployments()
    *updates, result = await generated(deployments, monkeypatch)
    assert [(update.step, update.steps) for update in updates] == [(step, 5) for step in (1, 2, 3, 4, 5)]
    assert [update.denoise_s for update in updates] == [1, 2, 3, 4, 5]
    assert all(update.latents is None for update in updates)
    assert (result.denoise_s, result.encode_s, result.spec) == (5, 0.5, TWO_PASSES)
    assert deployments.cancelled == 2, "each stream is ended"


async def test_each_pass_is_an_image_of_its_own_and_the_second_begins_with_the_first_scaled_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployments = Deployments()
    await generated(deployments, monkeypatch)
    assert [method for method, _ in deployments.calls] == ["encode", "denoise", "upscale", "denoise", "decode"]
    first, upscaled, second, decoded = (args for _, args in deployments.calls[1:])
    assert (first[0], second[0]) == TWO_PASSES.passes
    assert (first[1], second[1]) == ("a conditioning", "a conditioning")
    assert (first[-1], second[-1]) == (None, "a larger image")
    assert (upscaled[0], decoded[0]) == (TWO_PASSES, TWO_PASSES)
    assert (upscaled[1].max(), decoded[1].max()) == (3, 2), "the latents of the first pass, and of the second"


async def test_a_first_pass_is_not_made_again_where_its_result_is_scaled_up_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployments = Deployments(upscale=[ReplicaLost("It died."), away("Vae"), ReplicaLost("It died.")])
    *_, result = await generated(deployments, monkeypatch)
    methods = [method for method, _ in deployments.calls]
    assert methods == ["encode", "denoise", *["upscale"] * 4, "denoise", "decode"]
    assert len({id(args[1]) for method, args in deployments.calls if method == "upscale"}) == 1
    assert result.size == 123
    with pytest.raises(ReplicaLost):
        await generated(Deployments(upscale=[ReplicaLost("It died.")] * 3), monkeypatch)


@pytest.mark.parametrize(("passes_before", "field"), [(0, "width"), (1, "hires.scale")])
async def test_an_error_names_the_field_that_the_caller_sent_for_its_pass(
    monkeypatch: pytest.MonkeyPatch, passes_before: int, field: str
) -> None:
    error = InvalidRequest("width: batch_invariant cannot be kept at 256x256; request another size.", "width")
    deployments = Deployments(denoise=[*[None] * passes_before, error])
    with pytest.raises(InvalidRequest) as caught:
        await generated(deployments, monkeypatch)
    assert (caught.value.param, caught.value.message.partition(":")[0]) == (field, field)


async def test_a_second_pass_that_nobody_waits_for_any_more_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    deployments = Deployments()
    monkeypatch.setattr(pipeline_module, "own_name", lambda: "dispatcher")
    monkeypatch.setattr(Pipeline, "_handle", lambda *_: deployments)
    words = Pipeline("shapes", "images").generate(TWO_PASSES, LEASE)
    for step in (1, 2, 3, 4):  # the last one of these is the second pass's first
        update = await anext(words)
        assert isinstance(update, StepUpdate)
        assert update.step == step
    await words.aclose()
    assert deployments.cancelled == 2
    assert deployments.calls[-1][0] == "denoise", "nothing is decoded"
