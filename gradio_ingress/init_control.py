"""The image that a picture begins with, as the page has it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from deployments.nested_requests import InitRequest
from gradio_ingress import scalar_controls
from gradio_ingress.object_control import ObjectControl
from models.model_card import ModelCard

OF_MASK = ("mask_blur", "area", "paste_back")  # a request has them only with a mask
NEEDED = {"input": "This model changes a part of an image. It needs an image", "mask": "It needs a mask, too"}


class InitControl(ObjectControl):
    """An image, how much of it is made anew, and a mask."""

    kind = InitRequest
    labels: ClassVar[Mapping[str, str]] = {"": "Image", "input": "Image to begin with"}
    infos: ClassVar[Mapping[str, str]] = {
        "input": "The prompt says what it becomes.",
        "mask": "White changes, black stays. Without one, the whole image changes.",
        "mask_blur": "How softly the new part fades into the old one: within about twice as many pixels around it.",
        "area": "Masked: the model sees what lies around the mask alone, and draws it finer.",
        "paste_back": "Away from the mask, every pixel stays as it was.",
    }
    defaults: ClassVar[Mapping[str, Any]] = {"paste_back": True}

    def fit(self, card: ModelCard) -> dict[str, dict[str, Any]]:
        """Return the updates that empty the components, with the model's strength, and say what the model needs."""
        fitted = super().fit(card)
        for member, words in NEEDED.items():
            path = self._path(member)
            fitted[path]["label"] = words if self.is_needed(card) else self.label(path)
        return fitted

    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the image and what belongs to it; None without an image and without a mask."""
        found = super().read(values)
        return found if found.keys() & {"input", "mask"} else None

    def is_needed(self, card: ModelCard) -> bool:
        """Return whether a model generates nothing without a mask."""
        return self._path("mask") in card.requires

    def _looks(self, member: str) -> dict[str, Any]:
        image, mask = (scalar_controls.element_id(self._path(each)) for each in ("input", "mask"))
        return {"input": {"extended_with": mask}, "mask": {"painted_over": image}}.get(member, {})

    def _sent(self, members: Mapping[str, Any]) -> dict[str, Any]:
        found = super()._sent(members)
        left_out: tuple[str, ...] = () if "mask" in found else OF_MASK
        if not found.get("paste_back") and found.get("area") != "masked":
            left_out += ("mask_blur",)
        return {name: value for name, value in found.items() if name not in left_out}
