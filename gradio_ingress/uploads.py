"""Files that are uploaded to the page: how many are kept, and that events name no others of this machine.

Gradio takes any path that an event names as its file, copies what is there, and fetches what is an address. Its own
check is on only after `launch()`, which an application that is mounted never calls. It keeps what was uploaded for
hours, however much that is, and what came of an upload that broke off for good.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import route_utils
from gradio.utils import get_upload_folder

from models.errors import InvalidRequest, Unavailable

MAX_UPLOAD = 32 * 2**20  # bytes of an image whose settings are read
MAX_KEPT = 256 * 2**20  # bytes of all that was uploaded and not read yet
MAX_COMING = 8  # uploads at a time
KEPT_FOR_S = 600.0  # the page reads an upload within seconds
BLOCK = 64 * 1024  # bytes that a file counts at least, so that there are at most 4,096
MAX_FILES = 16  # of one event or upload; the name of each is looked at on the event loop, for up to 4 ms
REFUSED = "The file must be one that was uploaded to this page."


class FewParts(route_utils.GradioMultiPartParser):
    """Gradio's parser of uploads, which would take a thousand files, and for four seconds do nothing else."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named | {"max_files": MAX_FILES, "max_fields": MAX_FILES})


def require_uploads(blocks: gr.Blocks) -> None:
    """Make the queue of some Blocks refuse an event that names a file which was not uploaded, and bound uploads."""
    route_utils.GradioMultiPartParser = FewParts
    blocks.has_launched = True  # turns on Gradio's own check of paths
    queue: Any = blocks._queue
    push: Callable[..., Awaitable[tuple[bool, Any, Any]]] = queue.push

    async def push_if_uploaded(body: Any, *others: Any, **named: Any) -> tuple[bool, Any, Any]:
        for number, path in enumerate(_paths(body.data)):
            try:
                if number == MAX_FILES:
                    return False, f"An event may name at most {MAX_FILES} files.", "error"
                uploaded(path)
            except InvalidRequest as error:
                return False, error.message, "error"
        return await push(body, *others, **named)

    queue.push = push_if_uploaded


def uploaded(path: str) -> Path:
    """Return the uploaded file of this path, with links resolved.

    A path outside of Gradio's upload folder is not looked up: the answer is the same whether something is there.

    Raises:
        InvalidRequest: it is outside, or no regular file.
    """
    folder = os.path.abspath(get_upload_folder())
    try:
        if Path(os.path.abspath(path)).is_relative_to(folder):
            found = Path(path).resolve(strict=True)
            if found.is_relative_to(Path(folder).resolve()) and found.is_file():
                return found
    except (OSError, RuntimeError, ValueError):  # not there, links in a circle, no path at all
        pass
    raise InvalidRequest(REFUSED)


def use_own_folder() -> None:
    """Make Gradio keep uploads in a new folder that nobody else uses, in `GRADIO_TEMP_DIR` or the temporary folder."""
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="darkroom-", dir=os.environ.get("GRADIO_TEMP_DIR"))


def read_once(path: str) -> bytes:
    """Return what was uploaded under this path, which is deleted. Raises InvalidRequest, as `uploaded` does."""
    found = uploaded(path)
    content = found.read_bytes()
    _delete(found)
    return content


class Room:
    """Room for uploads: so many at a time, and the oldest files go where all of them would be too much."""

    def __init__(self) -> None:
        self._coming = 0

    @asynccontextmanager
    async def for_one(self) -> AsyncIterator[None]:
        """Make room for an upload while it comes.

        Raises:
            Unavailable: too many are coming.
        """
        if self._coming == MAX_COMING:
            raise Unavailable(f"{MAX_COMING} uploads are coming already. Try again soon.")
        self._coming += 1
        try:
            await asyncio.to_thread(_sweep, MAX_KEPT - self._coming * MAX_UPLOAD)
            yield
        finally:
            self._coming -= 1


def _delete(path: Path) -> None:
    """Delete a file, and the folder that Gradio has made for its content, where no other file is in it."""
    path.unlink(missing_ok=True)
    if path.parent.resolve() != Path(get_upload_folder()).resolve():
        with suppress(OSError):
            path.parent.rmdir()


def _sweep(most: int) -> None:
    """Delete the files of the upload folder that are old, and of the others the oldest beyond so many bytes."""
    found = []
    for path in Path(get_upload_folder()).rglob("*"):
        with suppress(FileNotFoundError):  # read, or moved to its place
            if not path.is_dir():
                status = path.lstat()
                found.append((status.st_mtime, max(BLOCK, status.st_size), path))
    total, old = 0, time.time() - KEPT_FOR_S
    for changed, size, path in sorted(found, reverse=True):
        total += size
        if total > most or changed < old:
            _delete(path)


def _paths(data: Any) -> Iterator[str]:
    """Yield the path of each object that Gradio could take for a file, at any depth."""
    left = [data]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            if isinstance(found.get("path"), str):
                yield found["path"]
            left.extend(found.values())
        elif isinstance(found, list):
            left.extend(found)
