"""Tells Gradio's own clients their place in the cluster's line, where Gradio would tell that in its own queue.

Gradio has no public way to do this. Without this file, and `show_place` in `program.py`, they see progress alone.
"""

import logging
from typing import Any

from gradio.context import LocalContext
from gradio.server_messages import EstimationMessage

from deployments.schema import QueuePlace

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


def show_place(place: QueuePlace) -> None:
    """Send a place in line to the client whose event runs in this context: its rank, the line's size, the wait."""
    word = EstimationMessage(rank=place.position - 1, queue_size=place.size, rank_eta=place.eta_s)
    try:
        queue: Any = getattr(LocalContext.blocks.get(), "_queue")  # noqa: B009
        queue.send_message(queue.event_ids_to_events[LocalContext.event_id.get()], word)
    except (AttributeError, LookupError) as error:  # another version of Gradio
        logger.warning("Gradio does not take a place in line: %r", error)
