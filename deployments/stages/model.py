"""The root of a model's application: what is known of the model while its stages sleep. No torch here."""

from dataclasses import asdict

from ray.serve.handle import DeploymentHandle

from deployments.autoscaling import Demand
from models.spec import ModelCard


class Model:
    """One replica, without tensors, that is there also when no stage is."""

    def __init__(self, card: ModelCard, *stages: DeploymentHandle) -> None:
        """Take the stages' handles because Serve deploys what the root is given: the Dispatcher calls them itself."""
        self._card = card
        self._demand = Demand()

    def meet(self, demand: Demand) -> ModelCard:
        """Take in what there is to do for the model; return what the checkpoint allows and prefers."""
        self._demand = demand
        return self._card

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell the autoscaling policy what there is to do: the Dispatcher is of another application."""
        return asdict(self._demand)
