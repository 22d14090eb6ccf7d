"""Who holds LoRAs in a Denoiser: images take them in turn, and wait where there is no room."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from deployments.stages.executor import SerialExecutor
from models.adapters.lora_bank import NO_RANKS, RowRanks
from models.adapters.resident_loras import ResidentLoras
from models.spec import Lora


class LoraLeases:
    """LoRAs in use. Files are read, and ranks filled, on a thread of their own: running images go on stepping."""

    def __init__(self, loras: ResidentLoras | None) -> None:
        """`loras` is None where there is no folder of them."""
        self._loras = loras
        self._thread = SerialExecutor("loras")  # the only one that touches them
        self._turn = asyncio.Lock()  # first come, first served: who waits for room is not overtaken
        self._released = asyncio.Event()

    @asynccontextmanager
    async def held(self, loras: Sequence[Lora]) -> AsyncIterator[RowRanks]:
        """Hold LoRAs as long as the context lasts; yield what each row of their image adds.

        Raises:
            AdapterChanged, UnusableAdapter: one of the files.
        """
        if not loras or self._loras is None:
            yield NO_RANKS
            return
        async with self._turn:
            ranks = await self._hold(loras)
        try:
            yield ranks
        finally:
            self._release(loras)

    async def _hold(self, loras: Sequence[Lora]) -> RowRanks:
        while True:
            self._released.clear()
            holding = asyncio.ensure_future(self._thread.run(self._hold_now, loras))
            try:
                ranks = await asyncio.shield(holding)
            except asyncio.CancelledError:
                holding.add_done_callback(lambda done: self._release_if_held(done, loras))
                raise
            if ranks is not None:
                return ranks
            await self._released.wait()

    def _hold_now(self, loras: Sequence[Lora]) -> RowRanks | None:
        """Hold LoRAs, or return None where there is no room; on the thread."""
        assert self._loras is not None
        if not self._loras.has_room(loras):
            return None
        [ranks] = self._loras.hold(loras).values()
        return ranks

    def _release_if_held(self, holding: "asyncio.Future[RowRanks | None]", loras: Sequence[Lora]) -> None:
        if not holding.cancelled() and holding.exception() is None and holding.result() is not None:
            self._release(loras)

    def _release(self, loras: Sequence[Lora]) -> None:
        assert self._loras is not None
        releasing = asyncio.ensure_future(self._thread.run(self._loras.release, loras))
        releasing.add_done_callback(lambda _: self._released.set())
