"""The TextEncoder's shell, without Ray: texts are encoded while others are being counted."""

import asyncio
from pathlib import Path

from deployments.config import ModelConfig
from deployments.stages.text_encoder import TextEncoder
from models.checkpoint.card import read_card
from tests.fakes import a_spec


async def test_a_text_that_is_counted_meanwhile_leaves_an_encoded_one_as_it_is(shapes: Path) -> None:
    """A tokenizer keeps padding and truncation as state, and counting wants others than encoding."""
    card = read_card(str(shapes))
    encoder = TextEncoder(ModelConfig(checkpoint=str(shapes)), card)
    over = asyncio.Event()

    async def count() -> None:
        while not over.is_set():
            await asyncio.gather(*(encoder.tokens("a red circle " * 20) for _ in range(8)))

    counting = asyncio.create_task(count())
    lengths = set()
    for number in range(150):  # as `@serve.batch`, which wants a replica around it, has them encoded
        [encoded] = await encoder._thread.run(encoder._encoder.encode, [a_spec(prompt=f"a blue star {number}")])
        lengths.add(len(encoded.rows[-1]["encoder_hidden_states"]))
    over.set()
    await counting
    assert lengths == {card.max_tokens + 2}
