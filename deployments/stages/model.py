"""The root of a model's application: what is known of the model while its stages sleep. No torch here."""

import asyncio
from dataclasses import asdict, replace
from pathlib import Path

from ray.serve.handle import DeploymentHandle

from deployments.autoscaling import Demand
from models.adapters.lora_folder import LoraFolder
from models.adapters.lora_header import LoraHeader
from models.model_card import ModelCard

SCAN_INTERVAL_S = 1.0


class Model:
    """One replica, without tensors, that is there also when no stage is. It watches the folder of adapters."""

    def __init__(
        self, card: ModelCard, *stages: DeploymentHandle, adapters: Path | None = None, max_lora_rank: int = 0
    ) -> None:
        """Take the stages' handles because Serve deploys what the root is given: the Dispatcher calls them itself."""
        self._card = card
        self._max_lora_rank = max_lora_rank
        self._demand = Demand()
        self._folder = None if adapters is None else LoraFolder(adapters, self._problem)
        self._scanning = None if self._folder is None else asyncio.create_task(self._keep_scanning(self._folder))

    def meet(self, demand: Demand) -> ModelCard:
        """Take in what there is to do for the model; return what the checkpoint allows and prefers."""
        self._demand = demand
        return self._card if self._folder is None else replace(self._card, adapters=self._folder.cards)

    def check_health(self) -> None:
        """Let Serve replace the replica if the adapters are not watched any more."""
        if self._scanning is not None and self._scanning.done():
            self._scanning.result()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell the autoscaling policy what there is to do: the Dispatcher is of another application."""
        return asdict(self._demand)

    async def _keep_scanning(self, folder: LoraFolder) -> None:
        while True:
            await asyncio.to_thread(folder.scan)
            await asyncio.sleep(SCAN_INTERVAL_S)

    def _problem(self, header: LoraHeader) -> str | None:
        """Return why a LoRA is not for this model; a replica that loads it looks at every shape."""
        if header.rank > self._max_lora_rank:
            return f"has rank {header.rank}, and the greatest is {self._max_lora_rank}: see max_lora_rank."
        if header.text_width not in (None, self._card.text_width):
            return f"is for models that attend to text of width {header.text_width}, not {self._card.text_width}."
        return None
