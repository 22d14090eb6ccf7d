"""Which files of this machine an event of the page may name: those that were uploaded to it, and no others.

Gradio takes any path that an event names as its file, copies what is there, and fetches what is an address. Its own
check is on only after `launch()`, which an application that is mounted never calls.
"""

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import route_utils
from gradio.utils import get_upload_folder

from models.errors import InvalidRequest

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
