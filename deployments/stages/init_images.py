"""The uploaded images that a Vae needs: read in the size of the image that is generated, and encoded."""

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from deployments.errors import NotFound
from deployments.input_store import InputStore, file_name
from models.errors import DarkroomError
from models.image_input import read_image
from models.init_image import InitPixels, around_mask, encode_init, put_back, whole
from models.parameters import Area, ResizeMode
from models.spec import EncodedImage, ImageSpec
from models.vae import Vae

READ_IMAGES = 8  # kept for the other images of a job, and to be pasted back
ENCODED_IMAGES = 32


class Source(NamedTuple):
    """What is read: files of inputs beside the store `images`, and the size that they are brought to."""

    images: str
    input_file: str
    mask_file: str | None
    area: Area
    resize_mode: ResizeMode
    width: int
    height: int


class InitImages:
    """What images begin with, encoded by a VAE of weights with a digest; the latest are kept."""

    def __init__(self, vae: Vae, digest: str, *, requires_mask: bool) -> None:
        self._vae = vae
        self._digest = digest
        self._requires_mask = requires_mask
        self._encoded: OrderedDict[Source, EncodedImage] = OrderedDict()

    def encode(self, sources: Sequence[Source]) -> list[EncodedImage | DarkroomError]:
        """Encode what is not encoded yet, each source once. One that fails is an error."""
        found: dict[Source, EncodedImage | DarkroomError] = {}
        read: dict[Source, InitPixels] = {}
        for source in dict.fromkeys(sources):
            try:
                if source in self._encoded:
                    found[source] = self._encoded[source]
                else:
                    read[source] = read_pixels(source)
            except DarkroomError as error:
                found[source] = error
        encoded = encode_init(self._vae, list(read.values()), requires_mask=self._requires_mask)
        for source, outcome in zip(read, encoded, strict=True):
            if isinstance(outcome, DarkroomError):
                found[source] = outcome
            else:
                found[source] = self._encoded[source] = replace(outcome, model_digest=self._digest)
        while len(self._encoded) > ENCODED_IMAGES:
            self._encoded.popitem(last=False)
        return [found[source] for source in sources]


def source_of(spec: ImageSpec, images: str, owner: str) -> Source:
    """Return what an image of `owner` begins with."""
    init = spec.init
    assert init is not None
    mask_file = None if init.mask is None else file_name(owner, init.mask)
    input_file = file_name(owner, init.input)
    return Source(images, input_file, mask_file, init.area, init.resize_mode, spec.width, spec.height)


@lru_cache(READ_IMAGES)
def read_pixels(source: Source) -> InitPixels:
    """Read a source in the size of the image that is generated.

    Raises:
        NotFound: somebody has deleted a file; the inputs of a job are kept until it has ended.
        InvalidRequest: the mask has nothing white at that size.
    """
    image, mask = _read(source)
    if source.area == "masked" and mask is not None:
        part, _, _ = around_mask(image, mask, source.width, source.height)
        return part
    return whole(image, mask, source.width, source.height, source.resize_mode)


def paste(generated: np.ndarray, source: Source, blur: int) -> np.ndarray:
    """Put what was generated into its original, uint8 [H, W, 3]; see `read_pixels` for errors."""
    if source.area == "whole":
        return put_back(generated, read_pixels(source), None, blur)
    image, mask = _read(source)
    assert mask is not None  # requests without one are refused
    _, original, box = around_mask(image, mask, source.width, source.height)
    return put_back(generated, original, box, blur)


def _read(source: Source) -> tuple[Image.Image, Image.Image | None]:
    image = read_image(_content(source.images, source.input_file, "init.input"), sys.maxsize)  # measured when stored
    if source.mask_file is None:
        return image, None
    return image, read_image(_content(source.images, source.mask_file, "init.mask"), sys.maxsize)


def _content(images: str, name: str, field: str) -> bytes:
    try:
        return InputStore(images).get(name)
    except NotFound as error:
        raise NotFound(f"{field}: its file is gone. Upload the image again.", field) from error
