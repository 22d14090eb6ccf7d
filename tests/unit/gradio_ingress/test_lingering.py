"""The page's event stream outlives its last event by a while."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.image_store import ImageStore
from gradio_ingress.app import create_app
from gradio_ingress.lingering import PENDING, linger
from gradio_ingress.page import Page
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


@pytest.fixture
def blocks() -> Any:
    kinds = ("private", "public")
    blocks = SimpleNamespace(_queue=Queue(), fns=[SimpleNamespace(api_visibility=kind) for kind in kinds])
    linger(blocks, 0.05)  # type: ignore[arg-type]
    return blocks


def event(fn_index: int = 0) -> Any:
    return SimpleNamespace(session_hash="page", fn_index=fn_index)


async def test_an_event_that_never_ran_is_pending_until_a_while_after_the_last(blocks: Any) -> None:
    assert (await blocks._queue.push(event()))[0]
    assert blocks._queue.pending_event_ids_session["page"] == {"event", PENDING}
    await asyncio.sleep(0.03)
    await blocks._queue.push(event())
    await asyncio.sleep(0.03)
    messages = blocks._queue.pending_messages_per_session["page"]
    assert messages.empty()
    await asyncio.sleep(0.1)
    assert messages.empty()  # the event still runs
    blocks._queue.pending_event_ids_session["page"].discard("event")
    assert (await asyncio.wait_for(messages.get(), 5)).event_id == PENDING
    assert messages.empty()


async def test_programs_streams_end_as_they_did(blocks: Any) -> None:
    await blocks._queue.push(event(fn_index=1))
    assert blocks._queue.pending_event_ids_session["page"] == {"event"}


async def test_gradios_queue_is_as_this_expects_it(tmp_path: Path) -> None:
    client = Cluster(ImageStore(tmp_path)).client
    create_app(client)
    queue: Any = Page(client).blocks._queue
    assert callable(queue.push)
    assert queue.pending_event_ids_session == {}
    assert len(queue.pending_messages_per_session) == 0
