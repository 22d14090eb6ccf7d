"""Uploaded images as the Dispatcher keeps them: a row in the database and a file in the store, changed together."""

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Mapping

from PIL import Image

from deployments.config import InputsConfig
from deployments.dispatcher import input_rows
from deployments.dispatcher.clock import SteadyClock
from deployments.dispatcher.durable_writer import DurableWriter
from deployments.dispatcher.metrics import DispatcherMetrics
from deployments.errors import Gone, InputNotFound, InputQuotaExceeded, NotFound, StorageFull, UnreadableJob
from deployments.image_store import ImageStore
from deployments.input_store import BRIEF_TTL_S, PREFIX, InputStore, NewInput, StoredInput, file_name, id_of
from deployments.jobs import Job
from deployments.named_inputs import MASK
from models.image_input import mask_flaw, read_image
from models.spec import ImageSpec

FindJob = Callable[[str, str], Awaitable[Job]]
ORPHAN_BATCH = 500  # names that are compared at a time


class Inputs:
    """The inputs of all owners. Whoever uploads writes the file; only this class adds rows and deletes files.

    It does so one change at a time, and adds no row without its file: an upload of an image that is being deleted
    leaves both or neither.
    """

    def __init__(
        self,
        writer: DurableWriter,
        files: InputStore,
        images: ImageStore,
        config: InputsConfig,
        clock: SteadyClock,
        metrics: DispatcherMetrics,
    ) -> None:
        self._run, self._call = writer.store.run, writer.call
        self._files = files
        self._images = images
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._changing = asyncio.Lock()
        self.kept_bytes = 0  # of all inputs, at the last look

    async def check_room(self, owner: str, size: int) -> None:
        """Check whether an owner may keep `size` bytes more. Raises InputQuotaExceeded, StorageFull."""
        await self._call(self._run, input_rows.check_room, owner, size, self._clock.now(), self._config)

    async def add(self, owner: str, new: NewInput) -> tuple[StoredInput, bool] | None:
        """Add an input, and return it and whether its owner did not have it.

        None if the file has gone since it was written: its caller must write it again.

        Raises:
            InputQuotaExceeded, StorageFull: there is no room, and the file was deleted.
        """
        now, name = self._clock.now(), file_name(owner, new.id)
        image = StoredInput(
            id=new.id,
            width=new.width,
            height=new.height,
            bytes=new.bytes,
            created=now,
            expires=now + (self._config.input_ttl_s if new.ttl_s is None else new.ttl_s),
        )
        async with self._changing:
            if not await asyncio.to_thread(self._files.has, name):
                return None
            try:
                return await self._call(self._run, input_rows.add, owner, image, self._config, new.mask_flaw)
            except (InputQuotaExceeded, StorageFull):  # so there is no row
                await asyncio.to_thread(self._files.remove, [name])
                raise

    async def resolve(self, owner: str, named: Mapping[str, str], job: FindJob) -> dict[str, str]:
        """Return the inputs that fields name: field -> id. The name of a result becomes an input with a copy of it.

        Args:
            named: field -> id of an input, or name of an image of a job of the owner's.
            job: finds a job of an owner.

        Raises:
            InputNotFound: the owner has no such result; `param` is the field.
            InputQuotaExceeded, StorageFull: there is no room for a copy.
        """
        return {
            field: name if name.startswith(PREFIX) else await self._copied(owner, field, name, job)
            for field, name in named.items()
        }

    async def _copied(self, owner: str, field: str, name: str, job: FindJob) -> str:
        try:
            found = await job(self._images.job_of(name), owner)
            if name not in (image.name for image in found.images):
                raise NotFound(f"There is no image {name}.")
            content = await asyncio.to_thread(self._images.get, name)
        except (NotFound, Gone, UnreadableJob):
            message = f"{field} must be the id of an input or the name of an image of yours; there is no {name[:80]}."
            raise InputNotFound(message, field) from None
        new, added = await asyncio.to_thread(_looked_at, content, as_mask=field == MASK), None
        while added is None:  # a deletion of the same input may come in between
            await asyncio.to_thread(self._files.put, file_name(owner, new.id), content)
            added = await self.add(owner, new)
        return new.id

    async def is_transparent(self, owner: str, spec: ImageSpec) -> bool:
        """Return whether the input that an image begins with, if any, is transparent in places."""
        if spec.init is None:
            return False
        return await self._call(self._run, input_rows.mask_flaw, owner, spec.init.input) == "transparent"

    async def find(self, input_id: str, owner: str) -> StoredInput:
        """Return an input of an owner. Raises InputNotFound."""
        return await self._call(self._run, input_rows.find, owner, input_id)

    async def newest(self, owner: str, limit: int, after: str | None) -> list[StoredInput]:
        """Return an owner's inputs, newest first: those that come after one of them. Raises InputNotFound."""
        return await self._call(self._run, input_rows.newest, owner, limit, after)

    async def delete(self, input_id: str, owner: str) -> None:
        """Delete an input. Raises InputNotFound, InputInUse."""
        async with self._changing:
            await self._call(self._run, input_rows.remove, owner, input_id)
            await asyncio.to_thread(self._files.remove, [file_name(owner, input_id)])

    async def expire(self, before: float) -> None:
        """Delete what has expired before a moment, but what jobs need that have not ended."""
        async with self._changing:
            expired = await self._call(self._run, input_rows.expire, before)
            await asyncio.to_thread(self._files.remove, expired)
        self._metrics.inputs_expired(len(expired))
        self.kept_bytes = await self._call(self._run, input_rows.kept_bytes)

    async def sweep_orphans(self, before: float) -> None:
        """Delete files that were last changed before a moment and are no inputs: their upload broke off."""
        names = await asyncio.to_thread(self._files.names, before)
        for start in range(0, len(names), ORPHAN_BATCH):  # other changes come in between
            async with self._changing:
                batch = names[start : start + ORPHAN_BATCH]
                orphans = await self._call(self._run, input_rows.orphans, batch)
                await asyncio.to_thread(self._files.remove, orphans)


def _looked_at(content: bytes, *, as_mask: bool) -> NewInput:
    """Return the input that a result becomes. Only one that is to be a mask is decoded, to see if it can be one."""
    with Image.open(io.BytesIO(content)) as result:
        width, height = result.size
    flaw = mask_flaw(read_image(content, sys.maxsize)) if as_mask else None
    return NewInput(
        id=id_of(content), width=width, height=height, bytes=len(content), ttl_s=BRIEF_TTL_S, mask_flaw=flaw
    )
