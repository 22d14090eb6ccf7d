"""Sends Gradio's own clients their position in the cluster's queue, in place of the position in Gradio's own queue.

Gradio has no public way to do this. Without `send_position`, which `client_api` calls, clients see progress alone.
"""

import logging
from typing import Any

from gradio.context import LocalContext
from gradio.server_messages import EstimationMessage

from deployments.schema import QueuePlace

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


def send_position(place: QueuePlace) -> None:
    """Send position, queue size and wait to the client whose event runs in this context."""
    message = EstimationMessage(rank=place.position - 1, queue_size=place.size, rank_eta=place.eta_s)
    try:
        queue: Any = getattr(LocalContext.blocks.get(), "_queue")  # noqa: B009
        queue.send_message(queue.event_ids_to_events[LocalContext.event_id.get()], message)
    except (AttributeError, LookupError) as error:  # another version of Gradio
        logger.warning("Gradio does not accept a queue position: %r", error)
