"""The one way in for uploaded images, for every route that takes any: decode, store, then let the Dispatcher add it."""

import asyncio
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar

from PIL import Image

from deployments.config import InputsConfig
from deployments.dispatcher.client import DispatcherClient
from deployments.errors import InputNotFound, TooLarge, TooManyRequests
from deployments.input_store import InputStore, NewInput, StoredInput, file_name, id_of
from deployments.open_requests import RETRY_AFTER_S
from deployments.stages.executor import SerialExecutor
from deployments.stages.memory import trim_heap
from models.errors import DarkroomError, InvalidImage, Unavailable
from models.image_input import Sides, extended, mask_flaw, read_image
from models.parameters import MASK_RULES, MaskFlaw

Seen = TypeVar("Seen")

MAX_READING = 16  # images that wait to be decoded or are, in this process
MAX_READING_OF_ONE = 8
MAX_COMING_BYTES = 128 * 2**20  # of bodies that arrive, in this process
MAX_COMING_BYTES_OF_ONE = 64 * 2**20
FAST = 1  # a PNG's compression: half the size of none, in a fifth of the usual time
MAX_TRIES = 3  # at storing an image that is being deleted


@dataclass(frozen=True, slots=True)
class Upload:
    """An image that was read, as it will be kept. Width and height are pixels, as it is looked at."""

    content: bytes = field(repr=False)
    id: str
    width: int
    height: int
    mask_flaw: MaskFlaw | None

    @classmethod
    def of(cls, content: bytes, image: Image.Image) -> Self:
        """Return the upload with these bytes and pixels."""
        return cls(content, id_of(content), image.width, image.height, mask_flaw(image))

    def as_input(self, ttl_s: float | None = None) -> NewInput:
        """Return the input that it becomes once its file is in the store; `ttl_s` is how long it then is kept."""
        return NewInput(
            id=self.id,
            width=self.width,
            height=self.height,
            bytes=len(self.content),
            ttl_s=ttl_s,
            mask_flaw=self.mask_flaw,
        )


class InputIntake:
    """Takes images from callers. `files` is where the Dispatcher looks for them.

    One image is decoded at a time, beside the event loop: two would need twice the memory, and delay what else the
    process does.
    """

    def __init__(self, client: DispatcherClient, files: InputStore, config: InputsConfig) -> None:
        self.config = config
        self.files = files
        self._client = client
        self._decoder = SerialExecutor("input-decoder")
        self._reading = _Share("images", MAX_READING_OF_ONE, MAX_READING)
        self._coming = _Share("bytes of uploads", MAX_COMING_BYTES_OF_ONE, MAX_COMING_BYTES)

    async def check_room(self, owner: str, size: int) -> None:
        """Check whether an owner may keep `size` bytes more. Raises InputQuotaExceeded, StorageFull."""
        await self._client.check_input_room(owner, size)

    @contextmanager
    def coming(self, owner: str) -> Iterator[Callable[[int], None]]:
        """Count the bytes of an upload while it arrives, with what is returned.

        That raises:
            TooManyRequests: too many bytes of the owner's uploads are here at a time.
            Unavailable: too many of all uploads are.
        """
        with self._coming.of(owner) as take:
            yield take

    async def add(self, owner: str, content: bytes, field: str) -> tuple[StoredInput, bool]:
        """Read and keep an image that came in a field, and return it and whether it is new to its owner.

        Raises:
            TooLarge, InvalidImage: it cannot be used; in `field`.
            TooManyRequests, Unavailable: too many images are being read.
            InputQuotaExceeded, StorageFull: there is no room for it.
        """
        return await self.keep(owner, await self.read(owner, content, field, Upload.of))

    async def read(self, owner: str, content: bytes, field: str, look: Callable[[bytes, Image.Image], Seen]) -> Seen:
        """Decode an image that came in a field, and return what `look` finds in its bytes and its pixels.

        Raises:
            TooLarge, InvalidImage: it cannot be used; in `field`.
            TooManyRequests, Unavailable: too many images are being read.
        """
        if len(content) > self.config.max_input_bytes:
            raise TooLarge(f"{field} must be at most {self.config.max_input_bytes} bytes; got {len(content)}.", field)
        with self._reading.of(owner) as take:
            take(1)
            try:
                return await self._decoder.run(_look, content, self.config.max_input_pixels, look)
            except InvalidImage as error:
                raise InvalidImage(f"{field}: {error.message}", field) from None
            except MemoryError as error:
                raise Unavailable("There is too little memory to read the image now. Try again soon.") from error

    async def keep(self, owner: str, upload: Upload, ttl_s: float | None = None) -> tuple[StoredInput, bool]:
        """Keep an image that was read, and return it and whether it is new to its owner.

        Without a job it is kept for `ttl_s` seconds, by default those of the config; `BRIEF_TTL_S` is for an image
        inside the request that needs it.

        Raises:
            InputQuotaExceeded, StorageFull: there is no room for it.
        """
        new = upload.as_input(ttl_s)
        for _ in range(MAX_TRIES):
            await asyncio.to_thread(self.files.put, file_name(owner, upload.id), upload.content)
            added = await self._client.add_input(owner, new)
            if added is not None:
                return added
        raise Unavailable(f"Input {upload.id} is being deleted while it is uploaded. Try again soon.")

    async def extend(
        self, owner: str, input_id: str, mask_id: str | None, sides: Sides
    ) -> tuple[StoredInput, StoredInput]:
        """Keep an input with room on its sides, and the mask of that room, as two more inputs: see `extended`.

        Raises:
            InputNotFound: the owner has no such input, or no such mask.
            InvalidRequest: the room on a side is less than a pixel.
            TooLarge, InvalidImage: the result is too large, or the mask is transparent.
            TooManyRequests, Unavailable, InputQuotaExceeded, StorageFull: as `add` does.
        """
        content = await self._content(owner, input_id)
        try:
            mask = None if mask_id is None else await self._content(owner, mask_id)
        except InputNotFound as error:
            raise InputNotFound(f"mask: {error.message}", "mask") from None
        with self._reading.of(owner) as take:
            take(1)
            try:
                files = await self._decoder.run(_extended, content, mask, sides, self.config)
            except MemoryError as error:
                raise Unavailable("There is too little memory to read the image now. Try again soon.") from error
        extended_image, is_new = await self.add(owner, files[0], "image")
        try:
            of_room, _ = await self.add(owner, files[1], "mask")
        except DarkroomError:
            if is_new:
                await self.release(owner, [extended_image.id])
            raise
        return extended_image, of_room

    async def release(self, owner: str, input_ids: Iterable[str]) -> None:
        """Delete inputs of a request that was refused, but those that a job needs."""
        for input_id in input_ids:
            with suppress(DarkroomError):  # a job needs it; else it expires
                await self._client.delete_input(input_id, owner)

    async def _content(self, owner: str, input_id: str) -> bytes:
        found = await self._client.input(input_id, owner)
        return await asyncio.to_thread(self.files.get, file_name(owner, found.id))


def _look(content: bytes, max_pixels: int, look: Callable[[bytes, Image.Image], Seen]) -> Seen:
    """Return what `look` finds in an image, which is decoded whole for it. Raises InvalidImage."""
    try:
        return look(content, read_image(content, max_pixels))
    finally:
        trim_heap()  # else images of the largest size leave 300 MiB with the process


def _extended(content: bytes, mask: bytes | None, sides: Sides, config: InputsConfig) -> list[bytes]:
    """Return the files of an image with room on its sides and of the mask of that room. Raises InvalidImage."""
    try:
        return [_file(image, config.max_input_bytes) for image in _with_room(content, mask, sides, config)]
    finally:
        trim_heap()


def _with_room(
    content: bytes, mask: bytes | None, sides: Sides, config: InputsConfig
) -> tuple[Image.Image, Image.Image]:
    most = config.max_input_pixels
    changes = None if mask is None else read_image(mask, most)
    if changes is not None and mask_flaw(changes) == "transparent":
        raise InvalidImage(f"mask {MASK_RULES['transparent']}.", "mask")
    return extended(read_image(content, most), changes, sides, most)


def _file(image: Image.Image, max_bytes: int) -> bytes:
    """Return an image as PNG; a larger photo as a JPEG in which one sees no difference."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=FAST)
    if file.tell() <= max_bytes:
        return file.getvalue()
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


class _Share:
    """How much of something one owner, and all owners together, may have at a time."""

    def __init__(self, what: str, most_of_one: int, most: int) -> None:
        self._what, self._most_of_one, self._most = what, most_of_one, most
        self._taken = Counter[str]()

    @contextmanager
    def of(self, owner: str) -> Iterator[Callable[[int], None]]:
        """Yield what takes an amount for an owner; all that was taken is given back at the end."""
        mine = 0

        def take(amount: int) -> None:
            nonlocal mine
            if self._taken[owner] + amount > self._most_of_one:
                message = f"At most {self._most_of_one} {self._what} of yours may be read at a time. Try again soon."
                raise TooManyRequests(message, RETRY_AFTER_S)
            if self._taken.total() + amount > self._most:
                raise Unavailable(f"{self._most} {self._what} are being read already. Try again soon.")
            mine += amount
            self._taken[owner] += amount

        try:
            yield take
        finally:
            self._taken[owner] -= mine
            if not self._taken[owner]:
                del self._taken[owner]
