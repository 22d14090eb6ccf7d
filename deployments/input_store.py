"""Where uploaded images are kept: the bytes as they were sent, one file for each owner and content.

An input's id is the SHA-256 of its bytes, so the same image has the same id wherever it comes from. Its file belongs to
one owner: what one deletes, another keeps. Which inputs there are, the database says.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from deployments.file_store import FileStore
from models.parameters import MaskFlaw

PREFIX = "input_"  # of an id; then 64 hexadecimal digits
INPUT_ID = rf"{PREFIX}[0-9a-f]{{64}}"
FOLDER = "inputs"  # in that of images
BRIEF_TTL_S = 600.0  # of an input that comes with its request: the job that is accepted keeps it
NAME = r"[0-9a-f]{32}-[0-9a-f]{64}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInput:
    """An uploaded image."""

    id: str
    width: int  # pixels, as it is looked at: turned as its EXIF data says
    height: int
    bytes: int
    created: float  # when it was uploaded first, seconds since 1970
    expires: float  # then it is deleted, unless a job that has not ended needs it


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInput:
    """An uploaded image whose file is in the store, before it is an input."""

    id: str
    width: int  # pixels, as it is looked at
    height: int
    bytes: int
    ttl_s: float | None = None  # how long it is kept without a job; None: as long as the config says
    mask_flaw: MaskFlaw | None = None  # with one, no job may have it as a mask


class InputStore(FileStore):
    """The files of uploaded images, in a folder of their own among the images of `images_root`."""

    def __init__(self, images_root: Path | str) -> None:
        super().__init__(images_root, NAME, "input", FOLDER)


def id_of(content: bytes) -> str:
    """Return the id of an image's bytes."""
    return PREFIX + hashlib.sha256(content).hexdigest()


def is_input_id(text: str) -> bool:
    """Return whether a text has the form of an id."""
    return re.fullmatch(INPUT_ID, text) is not None


def file_name(owner: str, input_id: str) -> str:
    """Return the name of the file that an owner's input is in."""
    return f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}-{input_id.removeprefix(PREFIX)}"
