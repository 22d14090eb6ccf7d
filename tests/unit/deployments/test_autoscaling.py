"""How many replicas each stage should have."""

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import autoscaling
from deployments.autoscaling import BUSY, DRAIN_S, Demand, keep_step, stages

STAGE_S = {"TextEncoder": 0.01, "Vae": 0.5}
seconds = st.floats(0, 1e5)
demands = st.builds(
    Demand, pictures=st.integers(0, 10_000), pictures_per_s=st.floats(0, 100), denoise_s=seconds, denoise_load=seconds
)


def test_without_work_nothing_is_needed() -> None:
    assert stages(Demand(), STAGE_S, 8) == {"Denoiser": 0, "TextEncoder": 0, "Vae": 0}


def test_what_came_and_is_done_keeps_no_stage_awake() -> None:
    idle = Demand(pictures=0, pictures_per_s=0.5, denoise_load=0.9)
    assert stages(idle, STAGE_S, 8) == {"Denoiser": 0, "TextEncoder": 0, "Vae": 0}


def test_one_picture_wakes_every_stage() -> None:
    assert stages(Demand(pictures=1, denoise_s=2), STAGE_S, 8) == {"Denoiser": 1, "TextEncoder": 1, "Vae": 1}


def test_denoisers_keep_up_with_what_comes_and_drain_what_waits() -> None:
    load = Demand(pictures=4, pictures_per_s=1, denoise_s=0, denoise_load=3 * BUSY)
    assert stages(load, STAGE_S, 8)["Denoiser"] == 3
    backlog = Demand(pictures=100, denoise_s=5 * DRAIN_S)
    assert stages(backlog, STAGE_S, 8)["Denoiser"] == 5


def test_decoders_are_as_many_as_the_denoisers_can_make_use_of() -> None:
    demand = Demand(pictures=600, denoise_s=20 * DRAIN_S)  # 20 pictures a second are wanted, each half a decoder-second
    assert stages(demand, STAGE_S, 20)["Vae"] == 10
    assert stages(demand, STAGE_S, 4)["Vae"] == 2


@given(demands, st.integers(1, 100))
def test_every_stage_has_a_replica_exactly_while_there_is_something_to_do(demand: Demand, most: int) -> None:
    chosen = stages(demand, STAGE_S, most)
    assert all(count >= 0 for count in chosen.values())
    if demand.pictures:
        assert min(chosen.values()) >= 1


@given(demands, demands, st.integers(1, 100))
def test_more_work_never_means_fewer_denoisers(one: Demand, more: Demand, most: int) -> None:
    both = Demand(
        one.pictures + more.pictures,
        one.pictures_per_s + more.pictures_per_s,
        one.denoise_s + more.denoise_s,
        one.denoise_load + more.denoise_load,
    )
    assert stages(both, STAGE_S, most)["Denoiser"] >= stages(one, STAGE_S, most)["Denoiser"]


@given(st.floats(0.01, 50), st.floats(0.01, 10), st.floats(0.001, 10))
def test_under_a_steady_load_no_stage_is_busier_than_it_should_be(rate: float, denoise: float, decode: float) -> None:
    demand = Demand(pictures=1, pictures_per_s=rate, denoise_s=denoise, denoise_load=rate * denoise)
    chosen = stages(demand, {"Vae": decode}, 10**9)
    slack = autoscaling.A_LITTLE * BUSY + 1e-9
    assert rate * denoise <= BUSY * chosen["Denoiser"] + slack
    assert rate * decode <= BUSY * chosen["Vae"] + slack


@given(demands)
def test_what_limits_the_denoisers_limits_the_others_in_proportion(demand: Demand) -> None:
    free, tight = stages(demand, STAGE_S, 10**9), stages(demand, STAGE_S, 1)
    share = 1 / max(1.0, demand.denoise_load / BUSY + demand.denoise_s / DRAIN_S)
    for stage in STAGE_S:
        assert tight[stage] <= max(1, free[stage] * share + 1)


# -- as Serve calls it


def a_context(name: str, metrics: dict[str, Any] | None = None, requests: float = 0, **more: Any) -> Any:
    """What Serve hands to a policy of one deployment."""
    recorded = {key: {"replica": value} for key, value in (metrics or {}).items()}
    return SimpleNamespace(
        deployment_name=name,
        aggregated_metrics=recorded,
        total_num_requests=requests,
        capacity_adjusted_max_replicas=4,
        policy_state=more.get("policy_state", {}),
    )


def decide(*contexts: Any) -> tuple[dict[str, int], dict[str, Any]]:
    return keep_step({ctx.deployment_name: ctx for ctx in contexts})


def test_the_policy_reads_what_the_root_and_the_stages_record() -> None:
    root = a_context("Model", {"pictures": 60, "pictures_per_s": 0, "denoise_s": 60, "denoise_load": 0})
    chosen, _ = decide(root, a_context("Denoiser"), a_context("Vae", {"picture_s": 1.5}))
    assert chosen == {"Denoiser": 2, "Vae": 3}


def test_what_a_picture_takes_is_remembered_while_a_stage_sleeps() -> None:
    root = a_context("Model", {"pictures": 60, "pictures_per_s": 0, "denoise_s": 60, "denoise_load": 0})
    _, state = decide(root, a_context("Denoiser"), a_context("Vae", {"picture_s": 1.5}))
    asleep = a_context("Vae", policy_state=state["Vae"])
    assert decide(root, a_context("Denoiser"), asleep)[0]["Vae"] == 3


def test_a_call_that_waits_wakes_its_stage_before_anything_is_recorded() -> None:
    chosen, _ = decide(a_context("Model"), a_context("Denoiser", requests=1), a_context("Vae"))
    assert chosen == {"Denoiser": 1, "Vae": 0}


def test_a_stage_that_does_not_scale_is_left_alone() -> None:
    root = a_context("Model", {"pictures": 1, "pictures_per_s": 0, "denoise_s": 1, "denoise_load": 0})
    assert decide(root, a_context("Denoiser"))[0] == {"Denoiser": 1}


@pytest.mark.parametrize("most", [1, 8])
def test_a_load_without_a_bound_is_no_error(most: int) -> None:
    assert stages(Demand(pictures=1, denoise_s=1e300), STAGE_S, most)["Vae"] == 1
    assert stages(Demand(pictures=1, denoise_s=1e300), STAGE_S, most)["Denoiser"] < inf
