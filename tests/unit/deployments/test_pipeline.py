"""One picture through the three stages, without Ray: what happens where one of them has no replica."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import numpy as np
import pytest
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentID

from deployments import pipeline as pipeline_module
from deployments.dispatcher.lease import Lease
from deployments.image_store import StoredImage
from deployments.pipeline import Pipeline
from models.errors import NonFinite, UnsupportedSampler
from models.spec import StepUpdate
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
