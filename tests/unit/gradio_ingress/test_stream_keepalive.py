"""The page's event stream outlives its last event by a while."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.access import AccessPolicy
from deployments.image_store import ImageStore
from gradio_ingress.app import create_app
from gradio_ingress.page import Page
from gradio_ingress.stream_keepalive import PENDING, keep_streams_open
from tests.unit.gradio_ingress.fakes import Cluster


class Queue:
    """What Gradio's queue has of a session."""

    def __init__(self) -> None:
        self.pending_messages_per_session: dict[str, asyncio.Queue[Any]] = {}
        self.pending_event_ids_session: dict[str, set[str]] = {}

    async def push(self, body: Any) -> tuple[bool, str, str]:
        self.pending_messages_per_session.setdefault(body.session_hash, asyncio.Queue())
        self.pending_event_ids_session.setdefault(body.session_hash, set()).add("event")
        return True, "event", "success"


@dataclass
class Timers:
    """The loop's, which ring when told to."""

    waiting: list[Callable[[], None]] = field(default_factory=list)

    def call_later(self, delay_s: float, call: Callable[[str], None], session: str) -> Any:
        def ring() -> None:
            call(session)

        self.waiting.append(ring)
        return SimpleNamespace(cancel=lambda: self.waiting.remove(ring))

    def ring(self) -> None:
        [ring] = self.waiting
        self.waiting.clear()
        ring()


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers()
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", timers.call_later)
    return timers


@pytest.fixture
def blocks() -> Any:
    kinds = ("private", "public")
    blocks: Any = SimpleNamespace(_queue=Queue(), fns=[SimpleNamespace(api_visibility=kind) for kind in kinds])
    keep_streams_open(blocks)
    return blocks


def event(fn_index: int = 0) -> Any:
    return SimpleNamespace(session_hash="page", fn_index=fn_index)


async def test_an_event_that_never_ran_is_pending_until_a_while_after_the_last(blocks: Any, timers: Timers) -> None:
    assert (await blocks._queue.push(event()))[0]
    await blocks._queue.push(event())
    pending = blocks._queue.pending_event_ids_session["page"]
    messages = blocks._queue.pending_messages_per_session["page"]
    assert pending == {"event", PENDING}
    timers.ring()
    assert messages.empty()  # the event still runs
    pending.discard("event")
    timers.ring()
    assert messages.get_nowait().event_id == PENDING
    assert messages.empty()
    assert timers.waiting == []


async def test_of_a_page_that_was_closed_nothing_is_kept(blocks: Any, timers: Timers) -> None:
    await blocks._queue.push(event())
    del blocks._queue.pending_messages_per_session["page"]
    timers.ring()
    assert PENDING not in blocks._queue.pending_event_ids_session["page"]
    assert timers.waiting == []


async def test_programs_streams_end_as_they_did(blocks: Any, timers: Timers) -> None:
    await blocks._queue.push(event(fn_index=1))
    assert blocks._queue.pending_event_ids_session["page"] == {"event"}
    assert timers.waiting == []


async def test_gradios_queue_is_as_this_expects_it(tmp_path: Path) -> None:
    client = Cluster(ImageStore(tmp_path)).client
    create_app(client, AccessPolicy())
    queue: Any = Page(client).blocks._queue
    assert callable(queue.push)
    assert queue.pending_event_ids_session == {}
    assert len(queue.pending_messages_per_session) == 0
