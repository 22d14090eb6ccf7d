"""Post-processors as an operator might write them, good and bad."""

import sys
from typing import Any

import numpy as np

from models.errors import OutOfMemory, Refused
from models.postprocess import PostProcessor
from models.spec import ImageSpec

MARK = (1, 2, 3)  # the colour of the corner that `Watermark` puts on
TRAILER = b"signed"


class Watermark(PostProcessor):
    """Colours a corner."""

    def pixels(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        pixels[-4:, -4:] = MARK
        return pixels


class Negative(PostProcessor):
    """Inverts the colours."""

    def pixels(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        return 255 - pixels


class Signature(PostProcessor):
    """Appends bytes to the file."""

    def file(self, content: bytes, spec: ImageSpec) -> bytes:
        return content + TRAILER


class SafetyCheck(PostProcessor):
    """Refuses a prompt; a real one would look at the pixels."""

    def pixels(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        if "weapon" in spec.prompt:
            raise Refused("The image shows a weapon.")
        return pixels


class Broken(PostProcessor):
    """Fails on every image."""

    def pixels(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        raise ZeroDivisionError("a secret of the operator's")


class Misleading(PostProcessor):
    """Raises an error of a stage."""

    def file(self, content: bytes, spec: ImageSpec) -> bytes:
        raise OutOfMemory("not the VAE's")


class Shrinking(PostProcessor):
    """Returns another size."""

    def pixels(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        return pixels[::2]


class Floating(PostProcessor):
    """Returns another dtype."""

    def pixels(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        return pixels / 255


class Forgetful(PostProcessor):
    """Returns nothing."""

    def file(self, content: bytes, spec: ImageSpec) -> Any:
        pass


class Converting(PostProcessor):
    """Returns what is no image file."""

    def file(self, content: bytes, spec: ImageSpec) -> bytes:
        return b"GIF"


class Leaving(PostProcessor):
    """Ends the process, if nobody stops it."""

    def pixels(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        sys.exit(3)


class Scored(Refused):
    """An operator's own refusal, made from something else than a message."""

    def __init__(self, score: float, reason: str) -> None:
        super().__init__("")
        self.message = ScoredText(f"{score}: {reason}")  # type: ignore[assignment]


class ScoredText:
    """No text, but something that becomes one."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


class Scoring(PostProcessor):
    """Refuses everything, in an unusual way."""

    def pixels(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        raise Scored(0.5, "a\ud800b" + "c" * 5000)


class Misspelt(PostProcessor):
    """Overrides neither method."""

    def pixel(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        return pixels


class Unmakeable(PostProcessor):
    """Cannot be made."""

    def __init__(self) -> None:
        raise FileNotFoundError("weights.bin")

    def file(self, content: bytes, spec: ImageSpec) -> bytes:
        return content


class Stranger:
    """No PostProcessor."""

    def pixels(self, pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
        return pixels
