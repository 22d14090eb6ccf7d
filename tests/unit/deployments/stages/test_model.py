"""The root of a model's application, which watches the folders of adapters."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deployments.autoscaling import Demand
from deployments.stages.model import Model
from models.model_card import AdapterCard
from tests.adapters import write_embedding
from tests.fakes import CARD

pytestmark = pytest.mark.usefixtures("own_cache")
MODEL_CARD = replace(CARD, text_width=128)
TO_K = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


def write(path: Path, rank: int, width: int) -> None:
    """A LoRA of one layer that attends to text of a width."""
    save_file(
        {f"{TO_K}.lora_down.weight": torch.ones(rank, width), f"{TO_K}.lora_up.weight": torch.ones(64, rank)}, path
    )


async def adapters_of(model: Model, count: int) -> list[AdapterCard]:
    """The cards of a model's adapters, once there are so many."""
    async with asyncio.timeout(10):
        while len(found := model.meet(Demand()).adapters or ()) < count:
            await asyncio.sleep(0.01)
    return list(found)


async def test_a_card_lists_the_adapters_and_why_some_cannot_be_used(tmp_path):
    write(tmp_path / "a fit.safetensors", rank=4, width=128)
    write(tmp_path / "large.safetensors", rank=9, width=128)
    write(tmp_path / "xl.safetensors", rank=4, width=2048)
    fit, large, xl = await adapters_of(Model(MODEL_CARD, adapters=tmp_path, max_lora_rank=8), 3)
    assert fit.problem is None
    assert large.problem == "has rank 9, and the greatest is 8: see max_lora_rank."
    assert xl.problem == "is for models that attend to text of width 2048, not 128."


async def test_a_card_lists_the_embeddings_too(tmp_path):
    write_embedding(tmp_path / "ink.safetensors", (2, 8))
    write_embedding(tmp_path / "xl.safetensors", (2, 8), (2, 12))
    model = Model(replace(MODEL_CARD, embedding_widths=(8,)), embeddings=tmp_path)
    async with asyncio.timeout(10):
        while len(found := model.meet(Demand()).embeddings or ()) < 2:
            await asyncio.sleep(0.01)
    assert [(card.name, card.vectors, card.problem) for card in found] == [
        ("ink", 2, None),
        ("xl", 2, "is for text encoders of width 8 and 12, not 8."),
    ]
    assert model.meet(Demand()).adapters is None


async def test_a_model_without_a_folder_has_no_adapters():
    model = Model(MODEL_CARD)
    assert model.meet(Demand()).adapters is None
    assert model.meet(Demand()).embeddings is None
    model.check_health()


async def test_a_folder_that_cannot_be_watched_any_more_fails_the_health_check(tmp_path, monkeypatch):
    model = Model(MODEL_CARD, adapters=tmp_path)
    assert model._scanning is not None
    model._scanning.cancel()
    await asyncio.gather(model._scanning, return_exceptions=True)
    try:
        model.check_health()
    except asyncio.CancelledError:
        return
    raise AssertionError("a model whose folder nobody watches must not be healthy")
