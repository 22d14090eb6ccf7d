"""What a control of nested objects does for the form."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from gradio.components import Component

from gradio_ingress import scalar_controls
from models.model_card import ModelCard


class NestedControl(ABC):
    """How the objects of a field appear on the page: components by path, and their values from and to request data."""

    @abstractmethod
    def create(self) -> dict[str, Component]:
        """Return the components by path, placed in the Blocks that are open.

        The path `loras[0].weight` and its `element_id` are where an error of that member is shown.
        """

    @abstractmethod
    def fit(self, card: ModelCard) -> dict[str, dict[str, Any]]:
        """Return the updates that empty the components and fit them to a model, by path."""

    @abstractmethod
    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the request data that the values of the components mean; None where the field is left out."""

    @abstractmethod
    def write(self, data: Any) -> dict[str, Any]:
        """Return the values of the components, by path, for request data; None empties them."""

    def label(self, path: str) -> str:
        """Return what people read in place of the path of the field or of a member."""
        return scalar_controls.label(path)

    def is_offered(self, card: ModelCard) -> bool:
        """Return whether the field means anything to a model."""
        return True

    def is_needed(self, card: ModelCard) -> bool:
        """Return whether a model generates nothing without the field."""
        return False
