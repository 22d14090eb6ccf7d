"""The files of an edit: the image, and what is made anew of it."""

import io
from dataclasses import dataclass
from typing import Self

from PIL import Image, ImageChops

from deployments.api.form import NO_ADDRESSES, Parts
from deployments.input_intake import InputIntake, Upload
from models.errors import InvalidImage, InvalidRequest

IMAGE_NAMES = ("image", "image[]")  # the second is what clients call it in a list
MAX_FILES = 32  # more than are used, so that a number of images can be refused in words
HALF = 128  # alpha below it is transparent
OPAQUE = 250  # alpha from it on is opaque: what is white beneath cannot be seen


@dataclass(frozen=True, slots=True)
class SentImages:
    """The files of a form."""

    image: bytes
    mask: bytes | None

    @property
    def size(self) -> int:
        """Bytes of all."""
        return len(self.image) + len(self.mask or b"")

    @classmethod
    def of(cls, parts: Parts) -> tuple[Self, Parts]:
        """Return the files of a form, and its other parts.

        Raises:
            InvalidRequest: no image, several, or one that is no file.
        """
        images = [sent for name, sent in parts if name in IMAGE_NAMES]
        masks = [sent for name, sent in parts if name == "mask"]
        for name, files in (("image", images), ("mask", masks)):
            if len(files) > 1:
                message = f"{name} must be one file; got {len(files)}. Several images in one request are not supported."
                raise InvalidRequest(message, name)
        if not images:
            raise InvalidRequest(f"image is required: a file. {NO_ADDRESSES}", "image")
        image, mask = images[0], masks[0] if masks else None
        for name, file in (("image", image), ("mask", mask)):
            if isinstance(file, str):
                message = f"{name} must be a file, with a file name in its part. {NO_ADDRESSES}"
                raise InvalidRequest(f"{message} POST /v1/jobs takes ids of inputs.", name)
        assert isinstance(image, bytes)
        assert not isinstance(mask, str)
        return cls(image, mask), [part for part in parts if part[0] not in (*IMAGE_NAMES, "mask")]


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image to edit, and the mask: white where it is made anew."""

    upload: Upload
    mask: Upload | None = None
    is_own_mask: bool = False  # its own transparent part, beneath which there is nothing

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.upload.width, self.upload.height

    @property
    def uploads(self) -> list[Upload]:
        """All that the request needs."""
        return [self.upload] if self.mask is None else [self.upload, self.mask]


async def read_sent(intake: InputIntake, owner: str, sent: SentImages, *, takes_mask: bool) -> SentImage:
    """Read the files of a form.

    Raises:
        InvalidRequest: a file cannot be used, or the mask does not fit the image; in the names of the dialect.
        TooLarge, TooManyRequests, Unavailable: see `InputIntake.read`.
    """
    if sent.mask is not None and not takes_mask:
        raise InvalidRequest("mask is not supported here: POST /v1/images/edits takes one.", "mask")
    upload, own_mask = await intake.read(owner, sent.image, "image", _seen_with_own_mask)
    if sent.mask is None:
        mask = own_mask if takes_mask else None
        return SentImage(upload, mask, is_own_mask=mask is not None)
    seen, mask = await intake.read(owner, sent.mask, "mask", _seen_as_mask)
    image = SentImage(upload, mask)
    if (seen.width, seen.height) != image.size:
        sizes = f"{upload.width}x{upload.height} pixels, as image; got {seen.width}x{seen.height}"
        raise InvalidImage(f"mask must have {sizes}.", "mask")
    if mask is None:
        raise InvalidImage(
            "mask must be a PNG or WebP file, transparent where image is to change; it is opaque everywhere.", "mask"
        )
    return image


def _seen_with_own_mask(content: bytes, image: Image.Image) -> tuple[Upload, Upload | None]:
    """Return an image, and a mask that is white where it is not opaque; None if no part is transparent."""
    alpha = _alpha(image)
    return Upload.of(content, image), alpha and _as_upload(alpha.point([255] * OPAQUE + [0] * (256 - OPAQUE)))


def _seen_as_mask(content: bytes, image: Image.Image) -> tuple[Upload, Upload | None]:
    """Return an image, and a mask that is white where it is transparent; None if no part is."""
    alpha = _alpha(image)
    return Upload.of(content, image), alpha and _as_upload(ImageChops.invert(alpha))


def _alpha(image: Image.Image) -> Image.Image | None:
    """Return the alpha channel of an image of which a part is transparent."""
    if image.mode != "RGBA":
        return None
    alpha = image.getchannel("A")
    return alpha if any(alpha.histogram()[:HALF]) else None


def _as_upload(mask: Image.Image) -> Upload:
    content = io.BytesIO()
    mask.save(content, "PNG")
    return Upload.of(content.getvalue(), mask)
