"""Prompts of weighted syntax: what their conditioning is made of.

The reference is transformers' tokenizers and encoders alone, a chunk at a time.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from models.families import clip
from models.spec import ImageSpec, Lora
from models.text_encoder import EncodedPrompt, TextEncoder, load_text_encoder
from tests.adapters import ALL, sum_of, write_lora
from tests.stages import CPU, Stages

FAMILIES = ("tiny_sd", "tiny_sd2", "tiny_sdxl")
SHORT = "a red circle, watercolor"
LONG = " ".join(["red"] * 75 + ["blue"] * 75 + ["a", "star"])  # words of one token
CHUNKS = [" ".join(["red"] * 75), " ".join(["blue"] * 75), "a star"]
TOKENS = 77  # of a chunk, with start and end
NEAR = 1e-5


def _bend(encoder: Any) -> None:
    """Give hidden states a mean, as trained encoders have; a new one's last layer takes it away."""
    torch.manual_seed(3)
    torch.nn.init.normal_(encoder.final_layer_norm.weight, 1, 0.2)
    torch.nn.init.normal_(encoder.final_layer_norm.bias, 0.1, 0.2)


class Pair:
    """A checkpoint in our stages, and its tokenizers and text encoders as transformers has them."""

    def __init__(self, folder: Any) -> None:
        self.stages = Stages(folder)
        self.stages.text_encoder = self.encoder = load_text_encoder(
            folder, self.stages.card.family, CPU, max_prompt_chunks=3
        )
        pipeline: Any = DiffusionPipeline.from_pretrained(folder)
        self.readers = [
            (getattr(pipeline, f"tokenizer{of}"), getattr(pipeline, f"text_encoder{of}"))
            for of in ("", "_2")
            if hasattr(pipeline, f"tokenizer{of}")
        ]
        if len(self.readers) == 1:  # the layer before the last one, which XL reads, has a mean
            _bend(self.encoder._components.loaded["text_encoder"])
            _bend(self.readers[0][1])

    def spec(self, prompt: str, **fields: Any) -> ImageSpec:
        return self.stages.spec(prompt, **{"prompt_syntax": "weighted", "guidance_scale": 1.0} | fields)

    def rows(self, prompt: str, encoder: TextEncoder | None = None, **fields: Any) -> tuple[Any, ...]:
        [encoded] = (encoder or self.encoder).encode([self.spec(prompt, **fields)])
        assert isinstance(encoded, EncodedPrompt), encoded
        return encoded.rows

    def hidden(self, prompt: str, **fields: Any) -> torch.Tensor:
        return self.rows(prompt, **fields)[-1]["encoder_hidden_states"]

    @torch.inference_mode()
    def theirs(self, prompt: str, clip_skip: int = 0) -> torch.Tensor:
        """What the encoders alone make of one chunk, [77, width]."""
        parts = []
        for tokenizer, encoder in self.readers:
            read = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
            states = encoder(read.input_ids, output_hidden_states=True).hidden_states
            is_xl = len(self.readers) == 2
            state = states[-2 - clip_skip] if is_xl else encoder.final_layer_norm(states[-1 - clip_skip])
            parts.append(state[0])
        return torch.cat(parts, -1)


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest) -> Callable[[str], Pair]:
    return cache(lambda name: Pair(request.getfixturevalue(name)))


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Pair:
    return pairs(request.param)


@pytest.fixture
def one(pairs: Callable[[str], Pair]) -> Pair:
    return pairs("tiny_sd")


def of_each_chunk(hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return hidden.split(TOKENS)


@pytest.mark.parametrize("written", [SHORT, "a (red:1.0) circle, watercolor", "a red circle, (watercolor:1)"])
def test_a_short_prompt_of_weight_1_has_the_bits_of_the_plain_one(pair, written):
    plain, same = pair.rows(SHORT, prompt_syntax="plain")[0], pair.rows(written)[0]
    assert plain.keys() == same.keys()
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert not torch.equal(plain["encoder_hidden_states"], pair.hidden("a (red:1.3) circle, watercolor"))


def test_escaped_brackets_are_those_of_the_plain_prompt(one):
    assert torch.equal(one.hidden(r"a \(red\) \[circle\]"), one.hidden("a (red) [circle]", prompt_syntax="plain"))


@pytest.mark.parametrize("clip_skip", [0, 1])
def test_a_long_prompt_is_its_chunks_end_to_end(pair, clip_skip):
    expected = torch.cat([pair.theirs(chunk, clip_skip) for chunk in CHUNKS])
    ours = pair.hidden(LONG, clip_skip=clip_skip)
    assert torch.allclose(ours, expected, atol=NEAR)
    assert not torch.allclose(ours.roll(TOKENS, 0), expected, atol=NEAR)


def test_a_break_ends_a_chunk(pair):
    expected = torch.cat([pair.theirs("a red circle"), pair.theirs("a star")])
    assert torch.allclose(pair.hidden("a red circle BREAK a star"), expected, atol=NEAR)


def test_the_pooled_embedding_is_the_first_chunks(pairs):
    pair = pairs("tiny_sdxl")
    pooled = pair.rows("a red circle BREAK a star")[0]["text_embeds"]
    assert torch.allclose(pooled, pair.rows("a red circle")[0]["text_embeds"], atol=NEAR)
    assert not torch.allclose(pooled, pair.rows("a star")[0]["text_embeds"], atol=NEAR)


def test_weights_multiply_hidden_states_and_each_chunk_keeps_its_mean(pair):
    ours = of_each_chunk(pair.hidden("a (red:1.5) circle BREAK [a] star"))
    factors = [{2: 1.5}, {1: 1 / 1.1}]  # token -> weight; the first one is the start
    for chunk, plain, weights in zip(ours, map(pair.theirs, ("a red circle", "a star")), factors, strict=True):
        widths = [encoder.config.hidden_size for _, encoder in pair.readers]
        for part, expected in zip(chunk.split(widths, 1), plain.split(widths, 1), strict=True):
            scaled = expected.clone()
            for token, weight in weights.items():
                scaled[token] *= weight
            assert torch.allclose(part, scaled * expected.mean() / scaled.mean(), atol=1e-4)
            assert not torch.allclose(part, scaled, atol=1e-4)


def test_a_mean_that_is_only_rounding_is_not_restored():
    hidden = torch.randn(1, TOKENS, 32)
    hidden -= hidden.mean(-1, keepdim=True)
    weights = [1.0, 1.5] + [1.0] * (TOKENS - 2)
    [row] = clip.weighted(hidden, [clip.Chunk([], [], weights, 0, {})])
    assert torch.equal(row, hidden[0] * torch.tensor(weights)[:, None])


def test_the_shorter_text_of_an_image_is_filled_up_with_empty_chunks(pair):
    for prompt, negative_prompt in ((LONG, SHORT), (SHORT, LONG)):
        rows = pair.rows(prompt, negative_prompt=negative_prompt, guidance_scale=5.0)
        assert {row["encoder_hidden_states"].shape[0] for row in rows} == {3 * TOKENS}
        shorter = rows[prompt == SHORT]["encoder_hidden_states"]
        expected = torch.cat([pair.theirs(SHORT), pair.theirs(""), pair.theirs("")])
        assert torch.allclose(shorter, expected, atol=NEAR)


def test_no_negative_prompt_is_as_long_as_the_prompt(pairs):
    zeros, _ = pairs("tiny_sdxl").rows(LONG, guidance_scale=5.0)
    assert zeros["encoder_hidden_states"].shape[0] == 3 * TOKENS
    assert not zeros["encoder_hidden_states"].any()


def test_a_negative_prompt_has_weights_too(one):
    plain, weighted = (
        one.rows("a ring", negative_prompt="(red:1.5)", guidance_scale=5.0, prompt_syntax=syntax)[0]
        for syntax in ("plain", "weighted")
    )
    assert not torch.equal(plain["encoder_hidden_states"], weighted["encoder_hidden_states"])


@pytest.mark.parametrize(
    ("prompt", "count", "cut"),
    [
        ("", 0, ""),
        ("a (red:1.2) circle", 3, ""),
        (LONG, 152, ""),
        ("red BREAK blue", 76, ""),
        ("red BREAK", 1, ""),
        (f"{CHUNKS[0]} BREAK blue", 76, ""),
        (f"{LONG} BREAK a (blue:1.2) [ring]", 228, "a blue ring"),
        (f"{LONG} {CHUNKS[1]} and BREAK zebra", 305, "blue blue and zebra"),
        ("red BREAK BREAK blue BREAK star", 226, "star"),
    ],
)
def test_tokens_are_counted_in_chunks_and_the_rest_is_quoted(one, prompt, count, cut):
    found = one.encoder.tokens(prompt, "weighted")
    assert (found.count, found.limit, found.chunks) == (count, 225, max(1, -(-count // 75)))
    assert " ".join(found.cut.split()) == cut
    [encoded] = one.encoder.encode([one.spec(prompt)])
    assert " ".join(encoded.cut.get("prompt", "").split()) == cut
    assert len(encoded.rows[0]["encoder_hidden_states"]) <= 3 * TOKENS


def test_an_embedding_of_several_vectors_is_counted_and_quoted(one, tiny_sd):
    encoder = load_text_encoder(tiny_sd, "sd", CPU, max_prompt_chunks=2)
    encoder._components.loaded["tokenizer"].add_tokens(["<style>", "<style>_1", "<style>_2"])
    assert encoder.tokens("a (<style>:1.2) circle", "weighted").count == 5
    found = encoder.tokens("<style> " * 51, "weighted")
    assert (found.count, found.limit) == (153, 150)
    assert found.cut.startswith("<style> <style>_1 <style>_2")


MIX = (SHORT, LONG, "a (red:1.5) circle BREAK [a] star", "a ((blue)) ring")


def test_rows_of_any_number_of_chunks_share_an_engine_and_each_equals_itself_alone(pair):
    fields = {"sampler": "ddim", "num_inference_steps": 2, "guidance_scale": 5.0, "negative_prompt": "(blur:1.2)"}
    specs = [pair.spec(prompt, **fields, seed=k) for k, prompt in enumerate(MIX)]
    together = pair.stages.denoise(*map(pair.stages.state, specs))
    pair.encoder._cache.clear()
    for latents, spec in zip(together, specs, strict=True):
        alone = pair.stages.latents(spec)
        assert np.linalg.norm(latents - alone) < 1e-4 * np.linalg.norm(alone)
    other = pair.stages.latents(replace(specs[2], prompt_syntax="plain"))
    assert np.linalg.norm(together[2] - other) > 1e-3 * np.linalg.norm(other)


def test_each_chunk_of_a_text_has_the_texts_own_loras(one, tiny_sd, tmp_path):
    encoders = {"text_encoder": one.readers[0][1]}
    write_lora(tmp_path / "ink.safetensors", encoders, "kohya", rank=2, targets=ALL, seed=1)
    lora = Lora(name="ink", weight=1.0, sha256=sum_of(tmp_path / "ink.safetensors"))
    encoder = load_text_encoder(tiny_sd, "sd", CPU, max_prompt_chunks=3)
    encoder.enable_loras(tmp_path, 8, 8)
    specs = [replace(one.spec(prompt), loras=loras) for prompt, loras in ((LONG, ()), (LONG, (lora,)), (SHORT, ()))]
    together = encoder.encode(specs)
    encoder._cache.clear()
    for spec, encoded in zip(specs, together, strict=True):
        [alone] = encoder.encode([spec])
        assert torch.allclose(
            encoded.rows[0]["encoder_hidden_states"], alone.rows[0]["encoder_hidden_states"], atol=NEAR
        )
    plain, added = (each.rows[0]["encoder_hidden_states"] for each in together[:2])
    changed = [
        not torch.allclose(*pair, atol=NEAR) for pair in zip(plain.split(TOKENS), added.split(TOKENS), strict=True)
    ]
    assert changed == [True] * 3


def test_the_cache_tells_syntaxes_and_lengths_apart(one):
    first = one.rows("a (red:1.5) ring", prompt_syntax="plain")
    second = one.rows("a (red:1.5) ring")
    third = one.rows("a (red:1.5) ring", negative_prompt=LONG, guidance_scale=5.0)
    assert not torch.equal(first[0]["encoder_hidden_states"], second[0]["encoder_hidden_states"])
    assert third[1]["encoder_hidden_states"].shape[0] == 3 * TOKENS


def test_with_batch_invariant_a_long_prompt_has_the_same_bits_among_others(tiny_sdxl):
    encoders = [load_text_encoder(tiny_sdxl, "sdxl", CPU, batch_invariant=True, max_prompt_chunks=3) for _ in range(2)]
    stages = Stages(tiny_sdxl)
    specs = [stages.spec(prompt, prompt_syntax="weighted") for prompt in MIX]
    for spec, encoded in zip(specs, encoders[0].encode(specs), strict=True):
        [alone] = encoders[1].encode([spec])
        assert all(
            torch.equal(row[name], same[name])
            for row, same in zip(encoded.rows, alone.rows, strict=True)
            for name in row
        )


def test_long_prompts_are_kept_and_share_forwards_by_their_chunks(pairs, monkeypatch):
    pair = pairs("tiny_sd")
    monkeypatch.setattr("models.text_encoder.MAX_CHUNKS", 6)
    monkeypatch.setattr("models.text_encoder.MAX_CACHED_CHUNKS", 7)
    forwards = []
    encode = pair.encoder._family.encode

    def counted(components: Any, texts: Any) -> Any:
        forwards.append(sum(text.chunks for text in texts))
        return encode(components, texts)

    monkeypatch.setattr(type(pair.encoder._family), "encode", lambda _, *given: counted(*given))
    specs = [pair.spec(f"{LONG} {number}") for number in range(5)]
    encoded = pair.encoder.encode(specs)
    assert (forwards, all(isinstance(each, EncodedPrompt) for each in encoded)) == ([6, 6, 3], True)
    pair.encoder.encode(specs[3:])  # the last two are kept
    assert forwards == [6, 6, 3]
    pair.encoder.encode(specs[:1])
    assert forwards == [6, 6, 3, 3]
