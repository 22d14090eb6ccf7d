"""Samplers that give no image in some number of steps are refused before anything is queued."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.dispatcher import plan_checks as plan_checks_module
from deployments.dispatcher.forecast import rows_in_flight
from deployments.dispatcher.plan_checks import PlanChecks
from deployments.request_errors import read_request
from models.errors import DarkroomError, Unavailable, UnsupportedSampler
from models.hires import Hires
from models.spec import ImageSpec
from tests.fakes import STEPS, FakePipeline, a_dispatcher, a_spec
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


async def test_requests_that_come_together_share_one_call_and_its_refusal() -> None:
    denoiser = Denoiser(UnsupportedSampler("no"))
    checks = PlanChecks(denoiser.compile_plan)
    ends = await asyncio.gather(*(checks.check(a_spec(), "d") for _ in range(20)), return_exceptions=True)
    assert [type(end) for end in ends] == [UnsupportedSampler] * 20
    assert len(denoiser.asked) == 1


async def test_a_caller_who_leaves_does_not_end_the_call_that_others_wait_for() -> None:
    async def slow(spec: ImageSpec) -> None:
        await asyncio.sleep(0.01)
        raise UnsupportedSampler("no")

    checks = PlanChecks(slow)
    leaves, stays = [asyncio.create_task(checks.check(a_spec(), "d")) for _ in range(2)]
    await asyncio.sleep(0)
    leaves.cancel()
    with pytest.raises(UnsupportedSampler):
        await stays
    assert leaves.cancelled()


async def test_a_known_key_neither_waits_for_a_check_nor_is_refused(tmp_path: Path) -> None:
    pipeline = FakePipeline()
    database_url, request = f"sqlite:///{tmp_path}/jobs", read_request({"prompt": "a", "sampler": "euler"})
    job = await a_dispatcher(pipeline, database_url=database_url).submit(request, "ada", "k")
    pipeline.no_plan.add(("euler", STEPS))
    restarted = a_dispatcher(pipeline, database_url=database_url)
    assert (await restarted.submit(request, "ada", "k")).id == job.id
    with pytest.raises(UnsupportedSampler):
        await restarted.submit(request, "ada", "another")


@pytest.mark.parametrize("path", [Path("serve_config.yaml"), *sorted(Path("ops/configs").glob("*.yaml"))], ids=str)
def test_a_denoiser_full_of_the_smallest_images_takes_a_check(path: Path) -> None:
    applications = yaml.safe_load(path.read_text())["applications"]
    denoisers = [each for app in applications for each in app["deployments"] if each["name"] == "Denoiser"]
    assert denoisers
    for each in denoisers:
        assert each["max_ongoing_requests"] > rows_in_flight(1, each["user_config"]["max_rows"])


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


async def test_each_pass_of_an_image_has_a_plan_whose_refusal_names_the_field_of_that_pass() -> None:
    refusal = UnsupportedSampler("num_inference_steps must be another number.", "num_inference_steps")
    denoiser = Denoiser(None, refusal)
    checks = PlanChecks(denoiser.compile_plan)
    spec = a_spec(hires=Hires(scale=2.0, strength=0.5, steps=4, width=256, height=256))
    with pytest.raises(UnsupportedSampler, match=r"^hires\.steps must be another number") as caught:
        await checks.check(spec, "d")
    assert caught.value.param == "hires.steps"
    assert tuple(denoiser.asked) == spec.passes
    assert not checks.has_passed(spec, "d")
    assert checks.has_passed(a_spec(), "d")
