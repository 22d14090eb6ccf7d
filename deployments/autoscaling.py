"""How many replicas each stage of a model should have, so that the three keep step.

An application-level policy of Serve's: `autoscaling_policy: {policy_function: deployments.autoscaling:keep_step}`.
Bounds and delays are those of each deployment's own `autoscaling_config`, which Serve applies to what is returned here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from deployments.stages import DENOISER, MODEL

if TYPE_CHECKING:  # Ray takes seconds to import
    from ray.serve._private.common import DeploymentID
    from ray.serve.config import AutoscalingContext

DRAIN_S = 30.0  # in which what waits should be done
BUSY = 0.7  # of a replica's time, where work comes as it has come of late: more leaves no room for bursts
STAGE_S = 0.05  # what a picture takes of a replica of another stage, until that has been measured
A_LITTLE = 1e-3  # of a replica: not worth one more


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do for a model: what has come and is not done, and what comes."""

    pictures: float = 0.0  # that wait or are being made
    pictures_per_s: float = 0.0  # that come
    denoise_s: float = 0.0  # seconds of one Denoiser that the pictures need, in full batches
    denoise_load: float = 0.0  # seconds of one Denoiser a second that those need that come


def stages(demand: Demand, stage_s: Mapping[str, float], most_denoisers: int) -> dict[str, int]:
    """Return the replicas of the Denoiser and of each other stage.

    Enough to keep up with what comes at `BUSY`, and to be done with what waits in `DRAIN_S`; of the other stages no
    more than `most_denoisers` can make use of; none where nothing is to be done. `stage_s`: stage -> seconds of one
    replica that a picture takes.
    """
    if not demand.pictures:  # what came of late is done: how soon a stage sleeps is for its delays to say
        return dict.fromkeys((DENOISER.deployment, *stage_s), 0)
    wanted = demand.denoise_load / BUSY + demand.denoise_s / DRAIN_S
    possible = min(1.0, most_denoisers / wanted) if wanted else 1.0
    pictures_per_s = possible * (demand.pictures_per_s / BUSY + demand.pictures / DRAIN_S)
    needed = {DENOISER.deployment: wanted, **{stage: pictures_per_s * seconds for stage, seconds in stage_s.items()}}
    return {stage: max(1, ceil(replicas - A_LITTLE)) for stage, replicas in needed.items()}


def keep_step(
    contexts: "Mapping[DeploymentID, AutoscalingContext]",
) -> "tuple[dict[DeploymentID, int], dict[DeploymentID, dict[str, Any]]]":
    """Read what `Model` and the stages record; return replicas, and what to remember of a stage that will sleep."""
    by_name = {ctx.deployment_name: (deployment, ctx) for deployment, ctx in contexts.items()}
    told = {name: _recorded(ctx) for name, (_, ctx) in by_name.items()}
    demand = Demand(**told.get(MODEL, {}))
    remembered = {
        name: told[name].get("picture_s") or ctx.policy_state.get("picture_s", STAGE_S)
        for name, (_, ctx) in by_name.items()
        if name not in (MODEL, DENOISER.deployment)
    }
    most = by_name[DENOISER.deployment][1].capacity_adjusted_max_replicas if DENOISER.deployment in by_name else 1
    chosen = stages(demand, remembered, most)
    for name, (_, ctx) in by_name.items():
        if name in chosen and ctx.total_num_requests > 0:  # a call came before it was recorded
            chosen[name] = max(1, chosen[name])
    return (
        {by_name[name][0]: count for name, count in chosen.items() if name in by_name},
        {by_name[name][0]: {"picture_s": seconds} for name, seconds in remembered.items()},
    )


def _recorded(ctx: "AutoscalingContext") -> dict[str, float]:
    """Return the mean over a deployment's replicas of each thing that they record."""
    return {
        name: sum(values.values()) / len(values) for name, values in (ctx.aggregated_metrics or {}).items() if values
    }
