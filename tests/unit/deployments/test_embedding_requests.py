"""Embeddings that prompts name: names become digests when a job is accepted."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from deployments.jobs import Job, new_job
from deployments.model_config import ModelConfig
from deployments.prompt_syntax import unread_syntax
from deployments.request_errors import default_problems
from deployments.resolution import request_data, resolve, words
from deployments.schema import GenerationRequest
from models.errors import InvalidRequest
from models.model_card import EmbeddingCard
from models.prompt_grammar import references
from models.spec import Embedding
from ops.defaults import check_model
from tests.adapters import write_embedding
from tests.fakes import CARD

EMBEDDINGS = (
    EmbeddingCard(name="easynegative", sha256="a" * 64, vectors=8),
    EmbeddingCard(name="ink-v1.2", sha256="b" * 64, vectors=2),
    EmbeddingCard(name="xl", problem="is for text encoders of width 768 and 1280, not 768."),
)
INK, NEGATIVE = Embedding(name="ink-v1.2", sha256="b" * 64), Embedding(name="easynegative", sha256="a" * 64)
WITH_EMBEDDINGS = replace(CARD, embeddings=EMBEDDINGS, own_words=("style",))


def named(prompt: str, card: Any = WITH_EMBEDDINGS, **fields: Any) -> tuple[Embedding, ...]:
    [spec] = resolve(GenerationRequest(prompt=prompt, **fields), card)
    return spec.embeddings


def refusal(prompt: str = "a circle", card: Any = WITH_EMBEDDINGS, **fields: Any) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        named(prompt, card, **fields)
    return caught.value.param, caught.value.message


@pytest.mark.parametrize("syntax", ["plain", "weighted"])
@pytest.mark.parametrize(
    "prompt",
    [
        "a <ink-v1.2> circle",
        "embedding:ink-v1.2",
        "a circle, embedding:ink-v1.2.",
        "(embedding:ink-v1.2:1.2) circle",
        "[embedding:ink-v1.2]",
        "red<ink-v1.2>blue <ink-v1.2> embedding:ink-v1.2",
        "a <style> <ink-v1.2> <lora",
    ],
)
def test_a_name_becomes_the_digest_of_its_file_once(prompt, syntax):
    request = GenerationRequest(prompt=prompt, prompt_syntax=syntax)
    [spec] = resolve(request, WITH_EMBEDDINGS)
    assert (spec.prompt, spec.embeddings) == (prompt, (INK,))
    assert request_data(spec)["prompt"] == prompt
    assert "embeddings" not in request_data(spec)


def test_both_prompts_name_embeddings_and_so_does_the_models_own_negative_prompt():
    assert named("<ink-v1.2>", negative_prompt="embedding:easynegative, <ink-v1.2>") == (INK, NEGATIVE)
    card = replace(WITH_EMBEDDINGS, defaults=CARD.defaults | {"negative_prompt": "<easynegative>"})
    assert named("a circle", card) == (NEGATIVE,)
    assert default_problems(card) == []
    assert [each.message for each in default_problems(replace(card, embeddings=()))] == [
        "negative_prompt: shapes has no embedding 'easynegative'. It has none now."
    ]


@pytest.mark.parametrize(
    ("default", "reason"),
    [
        ("<inc>", "shapes has no embedding 'inc'. It has easynegative, ink-v1.2."),
        ("<xl>", "xl is for text encoders of width 768 and 1280, not 768."),
        ("(blurry:11)", "the weight of “blurry” must be from -10 to 10, got 11."),
        ("<lora:chalk>", "must not name LoRAs, as they change the whole image; move “<lora:chalk>” to prompt."),
    ],
)
def test_an_error_of_the_models_own_negative_prompt_says_so_and_one_that_is_sent_is_named_as_a_field(default, reason):
    card = replace(WITH_EMBEDDINGS, defaults=CARD.defaults | {"negative_prompt": default, "prompt_syntax": "weighted"})
    assert refusal(card=card) == (
        None,
        f"The default negative prompt of shapes: {reason} Send a negative_prompt of your own, which may be empty.",
    )
    assert named("a circle", card, negative_prompt="") == ()
    assert refusal(card=card, negative_prompt=default) == ("negative_prompt", f"negative_prompt: {reason}")
    [problem] = default_problems(card)
    assert problem.message == f"negative_prompt: {reason}", "the launcher names the key of the config"


@pytest.mark.parametrize(
    "prompt",
    [
        "easynegative ink-v1.2",
        "a <style> circle",
        "<style>_1",
        "a < b and c > d",
        "</b> <br/> <a b> <:>",
        "embedding: easynegative",
        "myembedding:easynegative",
        "<lora:easynegative:1> <lyco:easynegative>",
    ],
)
def test_other_text_names_none(prompt):
    assert named(prompt) == ()


def test_a_weight_after_the_word_embedding_is_a_weight():
    assert named("(embedding:1.2)", prompt_syntax="weighted") == ()
    assert refusal("(embedding:1.2)")[1].startswith("prompt: shapes has no embedding '1.2'.")


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("syntax", ["plain", "weighted"])
@pytest.mark.parametrize("written", ["<{}>", "embedding:{}", "a (embedding:{}:1.2) circle"])
def test_a_name_that_cannot_be_used_is_refused_with_the_field_and_the_reason(field, syntax, written):
    def refused(name: str) -> tuple[str | None, str]:
        return refusal(**{field: written.format(name), "prompt_syntax": syntax})

    assert refused("easy-negative") == (
        field,
        f"{field}: shapes has no embedding 'easy-negative'. Near are easynegative.",
    )
    assert refused("q") == (field, f"{field}: shapes has no embedding 'q'. It has easynegative, ink-v1.2.")
    assert refused("xl") == (field, f"{field}: xl is for text encoders of width 768 and 1280, not 768.")


def test_without_a_folder_angles_are_text_and_the_other_way_is_refused():
    assert named("a <circle>", CARD) == ()
    assert refusal("embedding:ink", CARD) == (
        "prompt",
        "prompt: shapes has no embeddings: its config names no folder of them.",
    )


def test_a_style_of_the_request_leaves_embeddings_as_they_are():
    assert named("<ink-v1.2>", style="cartoon") == (INK,)


def test_the_count_of_tokens_is_of_the_same_embeddings():
    found = words(GenerationRequest(prompt="<ink-v1.2>", negative_prompt="<easynegative>"), WITH_EMBEDDINGS)
    assert (found.prompt_embeddings, found.negative_embeddings) == ((INK,), (NEGATIVE,))


def test_a_stored_job_keeps_the_digests_and_one_without_reads_as_none():
    job = new_job(resolve(GenerationRequest(prompt="<ink-v1.2>", seed=1), WITH_EMBEDDINGS), "me", 0.0)
    of_jobs = TypeAdapter(Job)
    assert of_jobs.validate_json(of_jobs.dump_json(job)).specs[0].embeddings == (INK,)
    document = of_jobs.dump_python(job, mode="json")
    del document["specs"][0]["embeddings"]
    assert of_jobs.validate_python(document).specs[0].embeddings == ()


def test_warnings_of_syntax_know_embeddings():
    assert unread_syntax("[embedding:ink] <ink> embedding:ink", "weighted") == []
    assert unread_syntax("[embedding:ink:0.5]", "weighted")[0].startswith("“[embedding:ink:0.5]”: alternating")
    assert unread_syntax("(embedding:ink:1.2)")[0].endswith("set prompt_syntax to weighted for weights of words.")
    assert unread_syntax("(embedding:ink)") == []


def test_the_launcher_checks_a_default_negative_prompt_against_the_folder(shapes: Path, tmp_path: Path) -> None:
    write_embedding(tmp_path / "ink.safetensors", (2, 128))
    problems = []
    for name in ("ink", "inc"):
        args = {"checkpoint": str(shapes), "defaults": {"negative_prompt": f"<{name}>"}, "embeddings": tmp_path}
        card = check_model(ModelConfig.model_validate(args))
        assert card is not None
        problems.append([problem.message for problem in default_problems(card)])
    assert problems == [[], ["negative_prompt: shapes has no embedding 'inc'. It has ink."]]


@pytest.mark.parametrize("piece", ["<", "<a", "<a.", "embedding:", "a.", "a.-+", "<a.b-c"])
def test_no_prompt_takes_longer_than_its_length_warrants(piece):
    start = time.process_time()
    references(piece * (100_000 // len(piece)), "plain")
    assert time.process_time() - start < 0.5
