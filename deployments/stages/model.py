"""The root of a model's application: what is known of the model while its stages sleep. No torch here."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from ray.serve.handle import DeploymentHandle

from deployments.autoscaling import Demand
from models.adapters.card_folder import CardFolder
from models.adapters.embedding_folder import EmbeddingFolder
from models.adapters.lora_folder import LoraFolder
from models.adapters.lora_header import LoraHeader
from models.model_card import ModelCard

SCAN_INTERVAL_S = 1.0


class Model:
    """One replica, without tensors, that is there also when no stage is. It watches the folders of adapters."""

    def __init__(
        self,
        card: ModelCard,
        *stages: DeploymentHandle,
        adapters: Path | None = None,
        max_lora_rank: int = 0,
        embeddings: Path | None = None,
    ) -> None:
        """Take the stages' handles because Serve deploys what the root is given: the Dispatcher calls them itself."""
        self._card = card
        self._max_lora_rank = max_lora_rank
        self._demand = Demand()
        self._folders: Mapping[str, CardFolder] = {  # field of the card -> its files
            **({"embeddings": EmbeddingFolder(embeddings, card)} if embeddings else {}),  # first: they are small
            **({"adapters": LoraFolder(adapters, self._problem)} if adapters else {}),
        }
        self._scanning = asyncio.create_task(self._keep_scanning()) if self._folders else None

    def meet(self, demand: Demand) -> ModelCard:
        """Take in what there is to do for the model; return what the checkpoint allows and prefers."""
        self._demand = demand
        return replace(self._card, **{field: folder.cards for field, folder in self._folders.items()})

    def check_health(self) -> None:
        """Let Serve replace the replica if the adapters are not watched any more."""
        if self._scanning is not None and self._scanning.done():
            self._scanning.result()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell the autoscaling policy what there is to do: the Dispatcher is of another application."""
        return asdict(self._demand)

    async def _keep_scanning(self) -> None:
        while True:
            for folder in self._folders.values():
                await asyncio.to_thread(folder.scan)
            await asyncio.sleep(SCAN_INTERVAL_S)

    def _problem(self, header: LoraHeader) -> str | None:
        """Return why a LoRA is not for this model; a replica that loads it looks at every shape."""
        if header.rank > self._max_lora_rank:
            return f"has rank {header.rank}, and the greatest is {self._max_lora_rank}: see max_lora_rank."
        if header.text_width not in (None, self._card.text_width):
            return f"is for models that attend to text of width {header.text_width}, not {self._card.text_width}."
        return None
