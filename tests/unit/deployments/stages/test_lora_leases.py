"""LoRAs in a Denoiser: who waits for room, and who gets it."""

import asyncio
from collections.abc import Sequence

import pytest
import torch

from deployments.stages.lora_leases import LoraLeases
from models.adapters.lora_bank import RowRanks
from models.errors import AdapterChanged
from models.spec import Lora

A, B, C = (Lora(name=name, weight=1.0, sha256=name) for name in "abc")


class Room:
    """Stands in for `ResidentLoras`, with room for two."""

    def __init__(self) -> None:
        self.held: list[str] = []

    def has_room(self, loras: Sequence[Lora]) -> bool:
        return len({*self.held, *(lora.name for lora in loras)}) <= 2

    def hold(self, loras: Sequence[Lora]) -> dict[str, RowRanks]:
        if loras[0].sha256 == "changed":
            raise AdapterChanged("loras: a has changed.", "loras")
        self.held += [lora.name for lora in loras]
        return {"unet": RowRanks(torch.zeros(1, dtype=torch.long), torch.ones(1))}

    def release(self, loras: Sequence[Lora]) -> None:
        for lora in loras:
            self.held.remove(lora.name)


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
def leases(room: Room) -> LoraLeases:
    return LoraLeases(room)  # pyright: ignore[reportArgumentType]


class Image:
    """An image that holds LoRAs until it is told to end."""

    def __init__(self, leases: LoraLeases, *loras: Lora) -> None:
        self.began, self.ends = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run(leases, loras))

    async def _run(self, leases: LoraLeases, loras: Sequence[Lora]) -> None:
        async with leases.held(loras):
            self.began.set()
            await self.ends.wait()

    async def end(self) -> None:
        self.ends.set()
        await self.task


async def test_an_image_without_loras_never_waits(leases):
    first = Image(leases, A, B)
    await first.began.wait()
    waiting = Image(leases, C)
    async with leases.held(()) as ranks:
        assert len(ranks.indices) == 0
    assert not waiting.began.is_set()
    await first.end()
    await waiting.end()


async def test_images_get_room_in_the_order_in_which_they_came(leases):
    first = Image(leases, A, B)
    await first.began.wait()
    waiting, later = Image(leases, C), Image(leases, A)
    await asyncio.sleep(0)
    assert not waiting.began.is_set()
    assert not later.began.is_set()  # its LoRA is there, and it must not keep the one before it out for ever
    await first.end()
    await waiting.began.wait()
    await later.began.wait()
    await waiting.end()
    await later.end()


async def test_who_is_cancelled_while_it_waits_holds_nothing(leases, room):
    first = Image(leases, A, B)
    await first.began.wait()
    waiting = Image(leases, C)
    await asyncio.sleep(0.01)
    waiting.task.cancel()
    await asyncio.gather(waiting.task, return_exceptions=True)
    await first.end()
    last = Image(leases, A, C)
    await last.began.wait()
    assert room.held == ["a", "c"]
    await last.end()


async def test_a_file_that_cannot_be_used_fails_its_image_and_keeps_nobody_out(leases):
    with pytest.raises(AdapterChanged):
        async with leases.held((Lora(name="a", weight=1.0, sha256="changed"),)):
            pass
    after = Image(leases, A)
    await after.began.wait()
    await after.end()
