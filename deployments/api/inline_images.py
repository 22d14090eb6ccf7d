"""Requests that carry their images: each image is kept as an input before its job is accepted."""

from collections.abc import Sequence

from deployments.dispatcher.client import DispatcherClient
from deployments.errors import InputNotFound
from deployments.input_intake import InputIntake, Upload
from deployments.input_store import BRIEF_TTL_S
from deployments.jobs import Job
from deployments.schema import GenerationRequest
from models.errors import DarkroomError

MAX_TRIES = 3  # while refused requests with the same image delete it


async def submit_with_images(
    client: DispatcherClient,
    intake: InputIntake,
    request: GenerationRequest,
    uploads: Sequence[Upload],
    owner: str,
    key: str | None,
    *,
    alpha_is_mask: bool = False,
) -> Job:
    """Queue a request that names some uploads, which are kept for it; the same key and request give the same job.

    With `alpha_is_mask` the transparency of its image is no cause for a warning.

    Raises:
        DarkroomError: nothing was queued, and what was kept is deleted, unless a job needs it.
    """
    if key is not None and (earlier := await client.accepted(request, owner, key)) is not None:
        return earlier
    for tries_left in reversed(range(MAX_TRIES)):
        added: list[str] = []
        try:
            for upload in uploads:
                image, is_new = await intake.keep(owner, upload, BRIEF_TTL_S)
                added += [image.id] if is_new else []
            return await client.submit(request, owner, key, alpha_is_mask=alpha_is_mask)
        except DarkroomError as error:
            await intake.release(owner, added)
            if not (isinstance(error, InputNotFound) and tries_left):
                raise
    raise AssertionError
