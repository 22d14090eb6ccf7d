"""Embeddings in prompts: conditioning is that of diffusers with the same files, and no row feels another's.

The reference is the untouched pipeline with `load_textual_inversion`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from models.errors import AdapterChanged, DarkroomError, UnusableAdapter
from models.families.base import Conditioning
from models.families.registry import FAMILIES
from models.spec import Embedding, ImageSpec
from models.text_encoder import TextEncoder, load_text_encoder
from tests.adapters import sum_of, write_embedding
from tests.stages import CPU, Stages

WIDTH = 32  # of each text encoder of the tiny checkpoints
VECTORS = {"ink": 3, "blur": 1, "half": 2}
NEAR = 1e-5
TOKENS = 77  # of a chunk, with start and end


def write_embeddings(folder: Path, encoders: int) -> None:
    """Embeddings of each layout: as AUTOMATIC1111 has them, a single vector, and in float16."""
    folder.mkdir()
    write_embedding(folder / "ink.safetensors", *[(3, WIDTH)] * encoders, seed=1)
    write_embedding(folder / "blur.safetensors", *[(WIDTH,) if encoders == 1 else (1, WIDTH)] * encoders, seed=2)
    write_embedding(folder / "half.safetensors", *[(2, WIDTH)] * encoders, seed=3, dtype=torch.float16)


class Pair:
    """A checkpoint with embeddings in our text encoder and in its diffusers pipeline."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.stages = Stages(checkpoint)
        self.is_xl = self.stages.card.family == "sdxl"
        write_embeddings(folder, 1 + self.is_xl)
        self.encoder = self.new_encoder()
        self.pipeline: Any = DiffusionPipeline.from_pretrained(checkpoint)
        for name in VECTORS:
            tensors = load_file(folder / f"{name}.safetensors")
            for (key, tensor), of in zip(tensors.items(), ("_2", "") if self.is_xl else ("",), strict=True):
                assert key == {"_2": "clip_g", "": "clip_l" if self.is_xl else "emb_params"}[of]
                parts = {part: getattr(self.pipeline, f"{part}{of}") for part in ("tokenizer", "text_encoder")}
                self.pipeline.load_textual_inversion({f"<{name}>": tensor}, **parts)

    def new_encoder(self, **options: bool) -> TextEncoder:
        card = self.stages.card
        encoder = load_text_encoder(self.checkpoint, card.family, CPU, max_prompt_chunks=3, **options)
        encoder.enable_embeddings(self.folder, card.embedding_widths, card.max_tokens)
        return encoder

    def embedding(self, name: str) -> Embedding:
        return Embedding(name=name, sha256=sum_of(self.folder / f"{name}.safetensors"))

    def spec(self, prompt: str, **fields: Any) -> ImageSpec:
        embeddings = tuple(self.embedding(name) for name in VECTORS)
        return self.stages.spec(prompt, **{"guidance_scale": 1.0, "embeddings": embeddings} | fields)

    def rows(self, *specs: ImageSpec, encoder: TextEncoder | None = None) -> list[Conditioning]:
        """The conditioning of each row of images that are encoded together."""
        encoded = (encoder or self.new_encoder()).encode(specs)
        return [row for each in encoded for row in self._sound(each).rows]

    @staticmethod
    def _sound(encoded: Any) -> Any:
        assert not isinstance(encoded, DarkroomError), encoded
        return encoded

    def hidden(self, prompt: str, **fields: Any) -> torch.Tensor:
        return self.rows(self.spec(prompt, **fields))[-1]["encoder_hidden_states"]

    @torch.inference_mode()
    def theirs(self, prompt: str, negative_prompt: str) -> list[Conditioning]:
        """What the untouched pipeline gives: the negative prompt, and the prompt."""
        fields: dict[str, Any] = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
        fields |= {"prompt": prompt, "negative_prompt": negative_prompt}
        found = [tensor[0] for tensor in self.pipeline.encode_prompt(**fields)]
        names = ("encoder_hidden_states", "text_embeds")
        return [dict(zip(names, found[k::2], strict=False)) for k in (1, 0)]


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Pairs of checkpoints, each made once."""
    return cache(lambda name: Pair(request.getfixturevalue(name), tmp_path_factory.mktemp("embeddings") / name))


@pytest.fixture(params=["tiny_sd", "tiny_sd2", "tiny_sdxl"])
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Pair:
    return pairs(request.param)


@pytest.fixture
def one(pairs: Callable[[str], Pair]) -> Pair:
    return pairs("tiny_sd")


def are_near(found: Sequence[Conditioning], expected: Sequence[Conditioning]) -> bool:
    return all(
        torch.allclose(row[name], other[name], atol=NEAR)
        for row, other in zip(found, expected, strict=True)
        for name in row.keys() & other.keys()
    )


@pytest.mark.parametrize(
    ("prompt", "negative_prompt"),
    [
        ("a <ink> circle, red", "a <blur>, ugly"),
        ("<half><ink>, a<blur>b", "blurry"),
        (" ".join(["red"] * 73) + " <ink> <blur>", "<ink> <ink>"),  # the last vector of <ink> is cut
    ],
)
def test_conditioning_is_that_of_diffusers(pair, prompt, negative_prompt):
    spec = pair.spec(prompt, negative_prompt=negative_prompt, guidance_scale=5.0)
    theirs = pair.theirs(prompt, negative_prompt)
    assert are_near(pair.rows(spec), theirs)
    assert not are_near(pair.rows(replace(spec, embeddings=())), theirs)


def test_both_ways_to_name_an_embedding_are_the_same_and_a_bare_name_is_text(one):
    named = one.hidden("a <ink> circle")
    assert torch.equal(one.hidden("a embedding:ink circle"), named)
    assert torch.equal(one.hidden("a <ink> circle", prompt_syntax="weighted"), named)
    assert torch.equal(one.hidden("a ink circle"), one.hidden("a ink circle", embeddings=()))
    assert not torch.equal(one.hidden("a ink circle"), named)


@pytest.mark.parametrize("invariant", [False, True])
def test_texts_with_other_embeddings_share_a_forward_and_each_equals_itself_alone(pair, invariant):
    prompts = ("a <ink> circle", "a <blur> circle", "a red circle", "<half> and <ink>", "a (embedding:ink:1.4) circle")
    specs = [pair.spec(prompt, prompt_syntax="weighted") for prompt in prompts]
    encoder = pair.new_encoder(batch_invariant=invariant)
    together = pair.rows(*specs, encoder=encoder)
    for row, spec in zip(together, specs, strict=True):
        [alone] = pair.rows(spec, encoder=pair.new_encoder(batch_invariant=invariant))
        assert are_near([row], [alone])
        assert not invariant or all(torch.equal(row[name], alone[name]) for name in row)


def test_a_weight_holds_for_every_vector(one):
    plain, ours = one.hidden("a <ink> circle"), one.hidden("a (embedding:ink:1.5) circle", prompt_syntax="weighted")
    scaled = plain.clone()
    scaled[2:5] *= 1.5  # after the start and a word
    assert torch.allclose(ours, scaled, atol=1e-4)  # a new layer norm leaves no mean that could be restored
    assert not torch.allclose(ours, plain, atol=1e-4)


def test_an_embedding_is_not_split_between_chunks(one):
    words = " ".join(["red"] * 73)
    together = one.hidden(f"{words} <ink> ring", prompt_syntax="weighted")
    apart = one.hidden(f"{words} BREAK <ink> ring", prompt_syntax="weighted")
    assert together.shape[0] == 2 * TOKENS
    assert torch.equal(together, apart)


@pytest.mark.parametrize(
    ("prompt", "syntax", "count", "cut"),
    [
        ("a <ink> circle", "plain", 5, ""),
        ("a (embedding:ink:1.2) circle", "weighted", 5, ""),
        ("red " * 74 + "<blur> ring", "plain", 76, "ring"),
        ("red " * 73 + "<ink> ring", "plain", 77, "<ink> ring"),
        ("red " * 73 + "embedding:ink, ring", "weighted", 80, ""),
        ("red " * 224 + "<half> ring", "weighted", 228, "<half> ring"),
    ],
)
def test_each_vector_counts_as_a_token_and_a_cut_text_is_quoted(one, prompt, syntax, count, cut):
    found = one.encoder.tokens(prompt, syntax, [one.embedding(name) for name in VECTORS])
    assert (found.count, found.cut) == (count, cut)
    [encoded] = one.encoder.encode([one.spec(prompt, prompt_syntax=syntax)])
    assert encoded.cut.get("prompt", "") == cut


def test_tokenizer_and_weights_stay_as_they_are(one):
    encoder = one.new_encoder()
    tokenizer, model = (encoder._components.loaded[name] for name in ("tokenizer", "text_encoder"))
    matrix = model.get_input_embeddings().weight.clone()
    before = len(tokenizer), one.rows(one.spec("a red circle"), encoder=encoder)
    one.rows(one.spec("a <ink> circle"), encoder=encoder)
    encoder._cache.clear()
    after = len(tokenizer), one.rows(one.spec("a red circle"), encoder=encoder)
    assert before[0] == after[0]
    assert torch.equal(before[1][0]["encoder_hidden_states"], after[1][0]["encoder_hidden_states"])
    assert torch.equal(model.get_input_embeddings().weight, matrix)


@pytest.fixture
def own_folder(one: Pair, tmp_path: Path) -> tuple[TextEncoder, Path]:
    """A text encoder with one embedding, and its file."""
    encoder = load_text_encoder(one.checkpoint, "sd", CPU)
    encoder.enable_embeddings(tmp_path, (WIDTH,), 75)
    return encoder, write_embedding(tmp_path / "ink.safetensors", (2, WIDTH))


def test_a_file_that_has_changed_fails_its_own_image_and_names_the_field(one, own_folder):
    encoder, path = own_folder
    old = Embedding(name="ink", sha256=sum_of(path))
    specs = [
        one.spec("a <ink> circle", embeddings=(old,)),
        one.spec("a circle", negative_prompt="<ink>", guidance_scale=5.0, embeddings=(old,)),
        one.spec("a circle", embeddings=()),
    ]
    write_embedding(path, (2, WIDTH), seed=1)
    of_prompt, of_negative_prompt, sound = encoder.encode(specs)
    assert isinstance(of_prompt, AdapterChanged)
    assert (of_prompt.message, of_prompt.param) == (
        "prompt: ink has changed since the job was accepted.",
        "prompt",
    )
    assert of_negative_prompt.param == "negative_prompt"
    assert not isinstance(sound, DarkroomError)
    path.unlink()
    [gone] = encoder.encode(specs[:1])
    assert gone.message == "prompt: ink is gone since the job was accepted."


def test_a_text_that_is_counted_has_no_job_and_names_its_own_field(one, own_folder):
    encoder, path = own_folder
    old = Embedding(name="ink", sha256=sum_of(path))
    write_embedding(path, (2, WIDTH), seed=1)
    with pytest.raises(AdapterChanged) as caught:
        encoder.tokens("<ink>", "plain", [old], "negative_prompt")
    message = "negative_prompt: ink has changed since its folder was last read. Try again in a few seconds."
    assert (caught.value.message, caught.value.param) == (message, "negative_prompt")


def test_the_cache_tells_the_versions_of_a_file_apart(one, own_folder):
    encoder, path = own_folder
    found = []
    for seed in (0, 1):
        write_embedding(path, (2, WIDTH), seed=seed)
        spec = one.spec("a <ink> circle", embeddings=(Embedding(name="ink", sha256=sum_of(path)),))
        found += one.rows(spec, encoder=encoder)
    assert not are_near(found[:1], found[1:])


def test_another_texts_embeddings_do_not_change_a_cached_text(one):
    encoder = one.new_encoder()
    for name in ("ink", "blur"):
        embeddings = one.embedding(name), one.embedding("half")
        fields = {"negative_prompt": "<half>", "guidance_scale": 5.0, "embeddings": embeddings}
        one.rows(one.spec(f"a <{name}> circle", **fields), encoder=encoder)
    assert encoder.cached == 1


def test_a_file_that_does_not_fit_the_checkpoint_any_more_is_refused(one, own_folder):
    encoder, path = own_folder
    write_embedding(path, (2, 2 * WIDTH))
    [refused] = encoder.encode([one.spec("<ink>", embeddings=(Embedding(name="ink", sha256=sum_of(path)),))])
    assert isinstance(refused, UnusableAdapter)
    assert refused.message == "prompt: ink is for text encoders of width 64, not 32."


def test_a_replica_without_a_folder_refuses_what_a_stored_job_names(one):
    encoder = load_text_encoder(one.checkpoint, "sd", CPU)
    [refused] = encoder.encode([one.spec("a <ink> circle")])
    assert isinstance(refused, AdapterChanged)


def test_embeddings_of_long_ago_make_room(one, monkeypatch):
    monkeypatch.setattr("models.adapters.resident_embeddings.MAX_RESIDENT", 1)
    encoder = one.new_encoder()
    one.rows(one.spec("<ink> <blur>"), encoder=encoder)
    assert list(encoder._embeddings.vectors) == [one.embedding("blur").sha256]


def test_the_checkpoints_own_words_are_those_that_were_added_to_its_tokenizer(tiny_sd, tmp_path):
    folder = copytree(tiny_sd, tmp_path / "sd")
    family = FAMILIES["sd"]
    assert family.facts(folder, "StableDiffusionPipeline").own_words == ()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_tokens(["<style>", "<style>_1", "plain"])
    tokenizer.save_pretrained(folder / "tokenizer")
    assert family.facts(folder, "StableDiffusionPipeline").own_words == ("style",)
