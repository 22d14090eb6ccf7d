"""Samplers that give no image in some number of steps are refused before anything is queued."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deployments.dispatcher import plan_checks as plan_checks_module
from deployments.dispatcher.plan_checks import PlanChecks
from models.errors import DarkroomError, Unavailable, UnsupportedSampler
from models.spec import ImageSpec
from tests.fakes import a_spec
from tests.unit.deployments.api.caller import Api, problem


class Denoiser:
    """Compiles plans, or does as it is told."""

    def __init__(self, *outcomes: DarkroomError | None) -> None:
        self.asked: list[ImageSpec] = []
        self._outcomes = list(outcomes)

    async def compile_plan(self, spec: ImageSpec) -> None:
        self.asked.append(spec)
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if outcome is not None:
            raise outcome


@pytest.mark.parametrize("path", ["/jobs", "/images/generations", "/hf/models/shapes"])
async def test_a_plan_that_cannot_be_compiled_is_a_400_that_queues_nothing(api: Api, path: str) -> None:
    api.pipeline.no_plan.add(("euler", 4))
    fields: dict[str, Any] = {"sampler": "euler", "num_inference_steps": 4}
    if "hf" in path:
        body = {"inputs": "a", "parameters": {"scheduler": "euler", "num_inference_steps": 4}}
        answer = await api.http.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("num_inference_steps must be another number")
    else:
        error = problem(await api.http.post(path, json={"prompt": "a", **fields}), 400)
        assert (error["code"], error["param"]) == ("unsupported_sampler", "num_inference_steps")
    await api.assert_idle()
    assert (await api.generate(**fields | {"num_inference_steps": 5})).status_code == 200


async def test_a_job_that_finds_it_out_while_it_runs_is_a_400_too(api: Api) -> None:
    api.pipeline.problems = [UnsupportedSampler("num_inference_steps must be another number.")]
    assert problem(await api.generate(), 400)["code"] == "unsupported_sampler"


async def test_a_denoiser_is_asked_once_for_each_sampler_number_of_steps_and_model() -> None:
    refusal = UnsupportedSampler("no", "num_inference_steps")
    denoiser = Denoiser(None, refusal)
    checks = PlanChecks(denoiser.compile_plan)
    for _ in range(3):
        await checks.check(a_spec(), "d")
    for _ in range(3):
        with pytest.raises(UnsupportedSampler) as caught:
            await checks.check(a_spec(num_inference_steps=4), "d")
        assert (caught.value.message, caught.value.param) == ("no", "num_inference_steps")
    assert len(denoiser.asked) == 2
    await checks.check(a_spec(num_inference_steps=4), "other weights")
    await checks.check(a_spec(sampler="euler"), "d")
    assert len(denoiser.asked) == 4


async def test_no_request_waits_for_a_denoiser_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_checks_module, "TIMEOUT_S", 0.01)

    async def sleeps(spec: ImageSpec) -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(60)

    asked = 0
    checks = PlanChecks(sleeps)
    for _ in range(3):
        await checks.check(a_spec(), "d")
    assert asked == 1, "for some seconds it is not asked again"


async def test_a_denoiser_that_is_lost_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_checks_module, "PAUSE_S", 0.0)
    denoiser = Denoiser(Unavailable(), UnsupportedSampler("no"))
    checks = PlanChecks(denoiser.compile_plan)
    await checks.check(a_spec(), "d")
    with pytest.raises(UnsupportedSampler):
        await checks.check(a_spec(), "d")


async def test_plans_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_checks_module, "MAX_KNOWN", 3)
    checks = PlanChecks(Denoiser().compile_plan)
    for steps in range(1, 10):
        await checks.check(a_spec(num_inference_steps=steps), "d")
    assert len(checks._known) <= 3


@pytest.fixture
async def api(tmp_path: Path) -> Api:
    return Api(tmp_path)
