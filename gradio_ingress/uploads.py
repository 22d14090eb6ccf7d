"""Files that are uploaded to the page: how many are kept, and that events name no others of this machine.

Gradio takes any path that an event names as its file, copies what is there, and fetches what is an address. Its own
check is on only after `launch()`, which an application that is mounted never calls. It keeps what was uploaded for
hours, however much that is, and what came of an upload that broke off for good.
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
from gradio import route_utils
from gradio.utils import get_upload_folder
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.error_responses import respond
from deployments.errors import TooManyRequests
from deployments.keys import peer_of
from deployments.open_requests import RETRY_AFTER_S
from models.errors import DarkroomError, InvalidRequest, Unavailable

MAX_UPLOAD = 32 * 2**20  # bytes of an image whose settings are read
MAX_KEPT = 256 * 2**20  # bytes of all that was uploaded and not read yet
MAX_COMING = 8  # uploads at a time
MAX_COMING_OF_ONE = 2
UPLOAD = "/gradio_api/upload"
OWN_FOLDER = "darkroom-uploads-"  # and the process that it is of
KEPT_FOR_S = 600.0  # the page reads an upload within seconds
BLOCK = 64 * 1024  # bytes that a file counts at least, so that there are at most 4,096
MAX_FILES = 16  # of one event or upload; the name of each is looked at on the event loop, for up to 4 ms
REFUSED = "The file must be one that was uploaded to this page."


class FewParts(route_utils.GradioMultiPartParser):
    """Gradio's parser of uploads, which would take a thousand files, and for four seconds do nothing else."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named | {"max_files": MAX_FILES, "max_fields": MAX_FILES})

    async def parse(self) -> Any:
        """Return the form. Raises MultiPartException where it cannot be read, or a file has no name."""
        try:
            form = await super().parse()
        except (LookupError, ValueError) as error:  # of its character set, or its boundary
            raise MultiPartException("The form cannot be read.") from error
        if not all(isinstance(file, UploadFile) for file in form.getlist("files")):
            raise MultiPartException("Each of files must be a file with a name.")
        return form


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
    """Make Gradio keep uploads in a new folder that nobody else uses, in `GRADIO_TEMP_DIR` or the temporary folder.

    Those of processes that are gone, as one that was killed is, are deleted.
    """
    base = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    for path in base.glob(f"{OWN_FOLDER}*"):
        pid = path.name.removeprefix(OWN_FOLDER).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)  # another account's stays
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix=f"{OWN_FOLDER}{os.getpid()}-", dir=base)


def read_once(path: str) -> bytes:
    """Return what was uploaded under this path, which is deleted. Raises InvalidRequest, as `uploaded` does."""
    found = uploaded(path)
    content = found.read_bytes()
    _delete(found)
    return content


class UploadRoom:
    """Makes room for uploads: so many come at a time, and the oldest files go where all would be too much. Pure ASGI.

    It stands behind what finds the owner. Beyond `MAX_COMING`, and `MAX_COMING_OF_ONE` of an owner, it answers 503 or
    429.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._coming = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) != UPLOAD:
            await self._app(scope, receive, send)
            return
        owner = scope["state"]["owner"] or peer_of(scope)
        try:
            self._check(owner)
        except DarkroomError as error:
            await respond(error)(scope, receive, send)
            return
        self._coming[owner] += 1
        try:
            await asyncio.to_thread(_sweep, MAX_KEPT - self._coming.total() * MAX_UPLOAD)
            await self._app(scope, receive, send)
        finally:
            self._coming[owner] -= 1
            self._coming += Counter()  # forgets who has none

    def _check(self, owner: str) -> None:
        if self._coming[owner] >= MAX_COMING_OF_ONE:
            message = f"{MAX_COMING_OF_ONE} uploads of yours are coming already. Try again soon."
            raise TooManyRequests(message, RETRY_AFTER_S)
        if self._coming.total() >= MAX_COMING:
            raise Unavailable(f"{MAX_COMING} uploads are coming already. Try again soon.")


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
