"""Streams of events, and what keeps them open while nothing happens."""

import asyncio
from collections.abc import AsyncGenerator

import anyio
import pytest

from deployments.api import event_stream
from deployments.api.event_stream import KEEP_ALIVE, encode_event, keep_alive
from tests.fakes import settled, until
from tests.unit.deployments.api.caller import Api, events


class Source:
    """A stream of events that come when a test sends them."""

    def __init__(self) -> None:
        self.coming = asyncio.Queue[bytes | None]()
        self.closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            while (event := await self.coming.get()) is not None:
                yield event
        finally:
            self.closed = True


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment comes whenever nothing else does."""
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_INTERVAL_S", 0)


def test_an_event_has_its_name_its_data_on_one_line_and_its_id() -> None:
    assert encode_event({"a": "b\nc"}, "job", "9") == b'event: job\ndata: {"a":"b\\nc"}\nid: 9\n\n'
    assert encode_event({"error": None}) == b'data: {"error":null}\n\n'


async def test_comments_come_while_no_event_does_and_none_is_lost(impatient: None) -> None:
    source = Source()
    stream = keep_alive(source.events())
    assert [await anext(stream) for _ in range(3)] == [KEEP_ALIVE] * 3
    for event in (b"1", b"2", None):
        source.coming.put_nowait(event)
    assert [part async for part in stream if part != KEEP_ALIVE] == [b"1", b"2"]
    assert source.closed


async def test_a_reader_who_leaves_ends_what_is_read(impatient: None) -> None:
    source = Source()
    stream = keep_alive(source.events())
    await anext(stream)
    await stream.aclose()
    assert source.closed


async def test_a_reader_who_is_cancelled_ends_what_is_read() -> None:
    source = Source()
    stream = keep_alive(source.events())
    reading = asyncio.ensure_future(anext(stream))
    await settled()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert source.closed


async def test_a_reader_who_is_cancelled_again_and_again_lets_what_is_read_end() -> None:
    ended = False

    async def slow_to_end() -> AsyncGenerator[bytes, None]:
        nonlocal ended
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            await settled()
            ended = True

    async def read() -> None:
        async for _ in keep_alive(slow_to_end()):
            pass

    async with anyio.create_task_group() as group:  # as Starlette's, when a client disconnects
        group.start_soon(read)
        await settled()
        group.cancel_scope.cancel()
    assert ended


async def test_what_goes_wrong_in_a_stream_reaches_its_reader() -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"1"
        raise ValueError("broken")

    stream = keep_alive(broken())
    assert await anext(stream) == b"1"
    with pytest.raises(ValueError, match="broken"):
        await anext(stream)


@pytest.mark.parametrize("is_openai", [True, False], ids=["OpenAI", "watch"])
async def test_each_stream_has_comments_while_its_job_waits_in_the_queue(
    api: Api, impatient: None, is_openai: bool
) -> None:
    api.pipeline.hold()
    await api.submit(num_images=2)  # as many as run at a time
    if is_openai:
        stream = asyncio.create_task(api.generate(stream=True))
    else:
        job = await api.submit()
        stream = asyncio.create_task(api.http.get(f"/jobs/{job['id']}/watch"))
    await until(lambda: api.dispatcher._queue.waiting)
    await settled()
    api.pipeline.let_go()
    answer = await stream
    assert answer.text.count(": keep-alive\n\n") > 1
    assert events(answer)
