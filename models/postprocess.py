"""An operator's own code over each image: over its pixels before they become a file, then over the file."""

import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from models.errors import PostProcessFailed, Refused
from models.spec import ImageSpec

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

MAX_MESSAGE = 1000  # characters that a refusal may tell a client


class PostProcessor:
    """What a model's `postprocess` names: a subclass that overrides one method or both.

    A Vae replica makes one without arguments when it starts, and calls it on one thread, an image at a time. It raises
    `Refused` for an image that must not be delivered; any other exception fails that image with `postprocess_failed`.
    """

    def pixels(self, pixels: UInt8[np.ndarray, "H W 3"], spec: ImageSpec) -> UInt8[np.ndarray, "H W 3"]:
        """Return the image's pixels, in the same shape. It may change `pixels` in place."""
        return pixels

    def file(self, content: bytes, spec: ImageSpec) -> bytes:
        """Return the image's file, in the same format: that of `spec.output_format`."""
        return content


class UnusablePostProcessor(ValueError):
    """An entry of `postprocess` that cannot be used: which one, and why."""


class PostProcessors:
    """Those of a replica, in the order of the config."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Load and make each. Raises UnusablePostProcessor."""
        self._each = [(entry, _make(entry, kind)) for entry, kind in zip(entries, load_classes(entries), strict=True)]

    def pixels(self, pixels: UInt8[np.ndarray, "H W 3"], spec: ImageSpec) -> UInt8[np.ndarray, "H W 3"]:
        """Return what they make of an image's pixels. Raises Refused, PostProcessFailed."""
        shape = pixels.shape
        for entry, each in self._each:
            pixels = _call(entry, each.pixels, pixels, spec)
            if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != shape:
                raise _failed(entry, f"pixels() must return a uint8 array of shape {shape}; got {_described(pixels)}")
        return pixels

    def file(self, content: bytes, spec: ImageSpec) -> bytes:
        """Return what they make of an image's file. Raises Refused, PostProcessFailed."""
        for entry, each in self._each:
            content = _call(entry, each.file, content, spec)
            if _format(content) != spec.output_format:
                raise _failed(entry, f"file() must return a {spec.output_format} file; got {_described(content)}")
        return content


def check_modules(entries: Sequence[str]) -> None:
    """Check that the modules can be found here, without running them; but the packages that they are in are imported.

    Raises:
        UnusablePostProcessor: names the entry whose module is not there.
    """
    for entry in entries:
        module, _, _ = entry.partition(":")
        try:
            found = find_spec(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(f"{error.name}."):
                raise UnusablePostProcessor(f"postprocess: {entry}: {module} cannot be imported: {error!r}") from error
            found = None  # nor is the package that it would be in
        except Exception as error:  # of the packages' own code: anything
            raise UnusablePostProcessor(f"postprocess: {entry}: {module} cannot be imported: {error!r}") from error
        if found is None:
            raise UnusablePostProcessor(f"postprocess: {entry}: there is no module {module} on Python's path.")


def load_classes(entries: Sequence[str]) -> list[type[PostProcessor]]:
    """Return the classes that entries name.

    Raises:
        UnusablePostProcessor: names the entry, and says what is wrong with it.
    """
    check_modules(entries)
    return [_load(entry) for entry in entries]


def _load(entry: str) -> type[PostProcessor]:
    module, _, name = entry.partition(":")
    try:
        found = vars(import_module(module))
    except Exception as error:
        raise UnusablePostProcessor(f"postprocess: {entry}: {module} cannot be imported: {error!r}") from error
    kind = found.get(name)
    if not isinstance(kind, type) or not issubclass(kind, PostProcessor):
        raise UnusablePostProcessor(
            f"postprocess: {entry}: {name} must be a subclass of models.postprocess.PostProcessor; "
            f"got {_described(kind)}."
        )
    if kind.pixels is PostProcessor.pixels and kind.file is PostProcessor.file:
        raise UnusablePostProcessor(f"postprocess: {entry}: {name} overrides neither pixels() nor file().")
    return kind


def _make(entry: str, kind: type[PostProcessor]) -> PostProcessor:
    try:
        return kind()
    except Exception as error:
        raise UnusablePostProcessor(f"postprocess: {entry}: {kind.__name__}() failed: {error!r}") from error


def _call(entry: str, method: Callable[[Any, ImageSpec], Any], image: Any, spec: ImageSpec) -> Any:
    try:
        return method(image, spec)
    except Refused as error:  # of the operator's own class, maybe: only the message leaves this process
        message = str(error.message).encode("utf-8", "replace").decode()
        raise Refused(message[:MAX_MESSAGE]) from error
    except BaseException as error:  # also SystemExit, which would end the replica
        raise _failed(entry, repr(error), error) from error


def _failed(entry: str, reason: str, cause: BaseException | None = None) -> PostProcessFailed:
    """Log the reason, which is for operators; return the error, which is for clients."""
    logger.error("postprocess: %s: %s", entry, reason, exc_info=cause)
    return PostProcessFailed("The image could not be post-processed.")


def _format(content: Any) -> str | None:
    """Return the format of an image file, None where it is none."""
    try:
        return str(Image.open(BytesIO(content)).format).lower()
    except (TypeError, UnidentifiedImageError):
        return None


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "nothing" if value is None else f"a {type(value).__name__}"
