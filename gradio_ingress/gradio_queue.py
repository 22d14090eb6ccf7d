"""Connects Gradio's queue of events with the cluster's queue of jobs, for Gradio's clients. Gradio has no public way.

`send_position` sends a client its position in the cluster's queue, in place of that in Gradio's own. Without it,
clients see progress alone. `event_id` and `has_event` find the event that a client cancels.
"""

import logging
from typing import Any

import gradio as gr
from gradio.context import LocalContext
from gradio.server_messages import EstimationMessage

from deployments.jobs import QueuePlace

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


def send_position(place: QueuePlace) -> None:
    """Send position, queue size and wait to the client whose event runs in this context."""
    message = EstimationMessage(rank=place.position - 1, queue_size=place.size, rank_eta=place.eta_s)
    try:
        queue: Any = getattr(LocalContext.blocks.get(), "_queue")  # noqa: B009
        queue.send_message(queue.event_ids_to_events[LocalContext.event_id.get()], message)
    except (AttributeError, LookupError) as error:  # another version of Gradio
        logger.warning("Gradio does not accept a queue position: %r", error)


def event_id() -> str | None:
    """Return the id of the event that runs in this context, None outside of Gradio's queue."""
    return LocalContext.event_id.get(None)


def has_event(blocks: gr.Blocks, event: str) -> bool:
    """Return whether an event waits or runs."""
    try:
        return event in getattr(blocks, "_queue").event_ids_to_events  # noqa: B009
    except AttributeError as error:  # another version of Gradio
        logger.warning("Gradio's events cannot be found: %r", error)
        return False
