"""What Serve says of an application's replicas."""

from dataclasses import dataclass

from ray import serve
from ray.serve._private.common import ReplicaState
from ray.serve.schema import ApplicationStatusOverview

from deployments.dispatcher.queue_stats import Replicas
from deployments.stages import STAGES


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """One deployment: Serve's word for its state, replicas that run, replicas that should."""

    status: str
    running: int
    wanted: int
    message: str = ""

    @property
    def ready(self) -> bool:
        """Whether a replica runs, or none is wanted and the first request wakes one."""
        asleep = self.wanted == 0 and self.status in ("HEALTHY", "DOWNSCALING")
        return self.running > 0 or asleep


@dataclass(frozen=True, slots=True)
class ApplicationState:
    """One application: Serve's word for its state and why, and its deployments by name."""

    status: str
    deployments: dict[str, DeploymentState]
    message: str = ""


def applications() -> dict[str, ApplicationState]:
    """Return every application by name; a blocking call to Serve's controller (a few ms)."""
    return {
        name: ApplicationState(str(overview.status.value), _deployments(overview), overview.message)
        for name, overview in serve.status().applications.items()
    }


def _deployments(application: ApplicationStatusOverview) -> dict[str, DeploymentState]:
    return {
        name: DeploymentState(
            status=str(overview.status.value),
            running=overview.replica_states.get(ReplicaState.RUNNING, 0),
            wanted=sum(n for state, n in overview.replica_states.items() if state != ReplicaState.STOPPING),
            message=overview.message,
        )
        for name, overview in application.deployments.items()
    }


def stage_replicas() -> dict[str, dict[str, Replicas]]:
    """Return the replicas of each stage of each application."""
    return {name: _stages(application) for name, application in applications().items()}


def _stages(application: ApplicationState) -> dict[str, Replicas]:
    nothing = DeploymentState("", running=0, wanted=0)
    states = {stage.key: application.deployments.get(stage.deployment, nothing) for stage in STAGES}
    return {key: Replicas(of.running, max(0, of.wanted - of.running)) for key, of in states.items()}
