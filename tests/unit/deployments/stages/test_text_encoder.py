"""The TextEncoder's shell, without Ray: texts are encoded while others are being counted."""

import asyncio
from pathlib import Path

from deployments.model_config import ModelConfig
from deployments.stages.text_encoder import TextEncoder
from models.checkpoint.card import read_card
from models.spec import Embedding
from tests.adapters import sum_of, write_embedding
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


async def test_embeddings_of_the_configs_folder_are_encoded_and_counted(shapes: Path, tmp_path: Path) -> None:
    card = read_card(str(shapes))
    path = write_embedding(tmp_path / "ink.safetensors", (3, *card.embedding_widths))
    ink = Embedding(name="ink", sha256=sum_of(path))
    encoder = TextEncoder(ModelConfig(checkpoint=str(shapes), embeddings=tmp_path), card)
    assert (await encoder.tokens("a <ink> circle", "plain", (ink,))).count == 5
    specs = [a_spec(prompt="a <ink> circle", embeddings=embeddings) for embeddings in ((ink,), ())]
    encoded = await encoder._thread.run(encoder._encoder.encode, specs)
    with_ink, without = (each.rows[-1]["encoder_hidden_states"] for each in encoded)
    assert not with_ink.equal(without)
