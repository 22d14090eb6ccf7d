"""Keeps a page's event stream open for a while after its last event.

Gradio ends the stream when no event is pending, and its front end believes it open until it has read that. An event
that begins in between is executed, but the page never receives its result: whoever presses Ctrl+Enter just after the
tokens were counted would wait for ever. Gradio has no public way to keep a stream open, so this patches its queue.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr
from gradio.server_messages import ProcessCompletedMessage

KEEPALIVE_S = 10.0  # short, because a browser has six connections for all tabs of a page
PENDING = "keepalive"  # id of an event that never ran


def keep_streams_open(blocks: gr.Blocks) -> None:
    """Make the queue of some Blocks keep each page's stream open for `KEEPALIVE_S` after its last event."""
    queue: Any = blocks._queue
    push: Callable[..., Awaitable[tuple[bool, Any, Any]]] = queue.push
    timers: dict[str, asyncio.TimerHandle] = {}

    def end(session: str) -> None:
        """Complete the event that never ran, and so the stream, once no other event is pending."""
        del timers[session]
        pending = queue.pending_event_ids_session.get(session, set())
        if session not in queue.pending_messages_per_session:  # the page was closed
            pending.discard(PENDING)
        elif len(pending) > 1:
            timers[session] = asyncio.get_running_loop().call_later(KEEPALIVE_S, end, session)
        else:
            done = ProcessCompletedMessage(event_id=PENDING, output={}, success=True)
            queue.pending_messages_per_session[session].put_nowait(done)

    async def push_and_keep_open(body: Any, *args: Any, **kwargs: Any) -> tuple[bool, Any, Any]:
        answer = await push(body, *args, **kwargs)
        session = body.session_hash
        is_page = blocks.fns[body.fn_index].api_visibility == "private"  # not an API client
        if is_page and session in queue.pending_event_ids_session:
            queue.pending_event_ids_session[session].add(PENDING)
            if session in timers:
                timers[session].cancel()
            timers[session] = asyncio.get_running_loop().call_later(KEEPALIVE_S, end, session)
        return answer

    queue.push = push_and_keep_open
