"""Keeps a page's event stream open for a while after its last event.

Gradio ends the stream when no event is pending, and its front end believes it open until it has read that. An event
that begins between the two is carried out, and the page never hears of it: who presses Ctrl+Enter just as the tokens
have been counted would wait for ever. Gradio has no public way to keep a stream, so this reaches into its queue.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr
from gradio.server_messages import ProcessCompletedMessage

LINGER_S = 10.0  # a browser has six connections for all tabs of a page: an idle one should hold none
PENDING = "lingering"  # an event that never ran


def linger(blocks: gr.Blocks) -> None:
    """Make the queue of some Blocks keep each page's stream open for `LINGER_S` after its last event."""
    queue: Any = blocks._queue
    push: Callable[..., Awaitable[tuple[bool, Any, Any]]] = queue.push
    timers: dict[str, asyncio.TimerHandle] = {}

    def end(session: str) -> None:
        """Complete the event that never ran, and the stream with it; not before it is the last."""
        del timers[session]
        pending = queue.pending_event_ids_session.get(session, set())
        if session not in queue.pending_messages_per_session:  # the page was closed
            pending.discard(PENDING)
        elif len(pending) > 1:
            timers[session] = asyncio.get_running_loop().call_later(LINGER_S, end, session)
        else:
            done = ProcessCompletedMessage(event_id=PENDING, output={}, success=True)
            queue.pending_messages_per_session[session].put_nowait(done)

    async def push_and_linger(body: Any, *others: Any, **named: Any) -> tuple[bool, Any, Any]:
        answer = await push(body, *others, **named)
        session = body.session_hash
        of_page = blocks.fns[body.fn_index].api_visibility == "private"  # and not of a program
        if of_page and session in queue.pending_event_ids_session:
            queue.pending_event_ids_session[session].add(PENDING)
            if session in timers:
                timers[session].cancel()
            timers[session] = asyncio.get_running_loop().call_later(LINGER_S, end, session)
        return answer

    queue.push = push_and_linger
