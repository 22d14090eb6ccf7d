"""What a request may say, and what becomes of what it leaves out."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.errors import UnknownModel
from deployments.jobs import new_job
from deployments.resolution import resolve
from deployments.schema import MAX_SEED, GenerationRequest
from models.errors import InvalidRequest
from models.validation import first_problem
from tests.fakes import CARD, FakePipeline, a_dispatcher, a_spec


def problem_of(**fields: Any) -> tuple[str, str]:
    """Field and message of what is wrong with a request."""
    with pytest.raises(ValidationError) as caught:
        GenerationRequest(**{"prompt": "a circle", **fields})
    return first_problem(caught.value.errors())


def refusal(**fields: Any) -> InvalidRequest:
    """What the model's card says against a request."""
    with pytest.raises(InvalidRequest) as caught:
        resolve(GenerationRequest(**{"prompt": "a circle", **fields}), CARD)
    return caught.value


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("prompt", "", "must not be empty"),
        ("prompt", "   \n\t", "must not be blank"),
        pytest.param("prompt", "x" * 100_000, "must have 4000 or fewer characters", id="prompt-100kB"),
        ("prompt", "a\0b", "must not contain the NUL character"),
        pytest.param("prompt", "a\ud800b", "must be (text|valid Unicode text)", id="prompt-surrogate"),
        ("prompt", None, "must be (text|valid Unicode text)"),
        ("prompt", ["a"], "must be (text|valid Unicode text)"),
        ("negative_prompt", "a\0b", "must not contain the NUL character"),
        pytest.param("negative_prompt", "x" * 4001, "must have 4000 or fewer characters", id="negative_prompt-long"),
        ("num_inference_steps", 0, "must be 1 or more"),
        ("num_inference_steps", 151, "must be 150 or less"),
        ("num_inference_steps", "ten", "must be an integer"),
        ("num_inference_steps", 2.5, "must be an integer"),
        ("guidance_scale", -1, "must be 0 or more"),
        ("guidance_scale", 31, "must be 30 or less"),
        ("guidance_scale", math.nan, "finite number"),
        ("guidance_scale", math.inf, "must be 30 or less|finite number"),
        ("width", 0, "must be 64 or more"),
        ("width", 10**6, "must be 2048 or less"),
        ("height", -64, "must be 64 or more"),
        ("seed", -2, "must be -1 or more"),
        ("seed", 2**32, "must be 4294967295 or less"),
        ("seed", 2**64, "must be 4294967295 or less"),
        pytest.param("seed", 10**400, "must be 4294967295 or less", id="seed-huge"),
        ("sampler", "lms", "'ddim', 'ddpm', .* or 'tcd'"),
        ("style", "baroque", "'flat'.*'cyberpunk'"),
        ("output_format", "gif", "'png', 'jpeg' or 'webp'"),
        ("num_images", 0, "must be 1 or more"),
        ("num_images", 11, "must be 10 or less"),
    ],
)
def test_a_broken_bound_is_refused_with_its_field_and_the_bound(field: str, value: object, words: str) -> None:
    name, message = problem_of(**{field: value})
    assert name == field
    assert message.startswith(f"{field} ")
    assert message.endswith(".")
    assert len(message) < 300, "however large the value was"
    assert re.search(words, message), message


def test_the_message_repeats_a_short_value_and_not_a_long_one() -> None:
    assert problem_of(num_inference_steps=0)[1].endswith(", got 0.")
    assert problem_of(num_inference_steps="ten")[1].endswith(", got 'ten'.")
    assert "xxx" not in problem_of(prompt="x" * 5000)[1]


def test_an_unknown_field_is_refused_by_name() -> None:
    assert problem_of(stpes=20) == ("stpes", "stpes is not a known field.")


def test_a_long_field_name_is_cut() -> None:
    assert problem_of(**{"x" * 10_000: 1}) == ("x" * 100, f"{'x' * 100} is not a known field.")


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        GenerationRequest()
    assert first_problem(caught.value.errors()) == ("prompt", "prompt is required.")


@pytest.mark.parametrize("prompt", ["ein roter Kreis, groß", "红色圆圈", "دائرة حمراء", "🔴🟦👩‍👩‍👧", "\"'`<b>&amp;\\"])
def test_any_script_is_a_prompt(prompt: str) -> None:
    [spec] = resolve(GenerationRequest(prompt=prompt), CARD)
    assert spec.prompt == prompt


@pytest.mark.parametrize(
    ("width", "words"), [(100, "a multiple of 64"), (320, "from 64 to 256"), (2048, "from 64 to 256")]
)
def test_a_size_that_the_model_cannot_draw_is_refused_with_its_bound(width: int, words: str) -> None:
    error = refusal(width=width)
    assert (error.param, error.message) == ("width", f"width must be {words} for shapes, got {width}.")


def test_a_bound_of_one_value_is_said_as_that_value() -> None:
    error = refusal(height=192)
    assert error.message == "height must be 128 for shapes, got 192."


def test_a_sampler_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    error = refusal(sampler="dpmpp_2m")
    assert (error.param, error.message) == (
        "sampler",
        "sampler must be one of ddim, euler for shapes, got dpmpp_2m.",
    )


def test_a_style_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    error = refusal(style="anime")
    assert (error.param, error.message) == ("style", "style must be one of flat, cartoon for shapes, got anime.")


def test_a_card_without_styles_takes_them_all() -> None:
    [spec] = resolve(GenerationRequest(prompt="a cat", style="anime"), replace(CARD, styles=()))
    assert spec.prompt == "anime artwork of a cat, clean lines, vibrant"
    assert spec.negative_prompt == "photograph, realism"


async def test_an_unknown_model_is_refused_with_the_one_served() -> None:
    dispatcher = a_dispatcher(FakePipeline())
    with pytest.raises(UnknownModel) as caught:
        await dispatcher.submit(GenerationRequest(prompt="a circle", model="dall-e-3"), "me")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.message == 'model: there is no "dall-e-3"; served: shapes.'
    assert await dispatcher.jobs("me") == []


def test_what_is_left_out_comes_from_the_card_and_not_from_the_schema() -> None:
    [spec] = resolve(GenerationRequest(prompt="a circle", seed=7), CARD)
    assert spec == a_spec()
    assert spec.num_inference_steps != GenerationRequest.model_fields["num_inference_steps"].default


def test_what_is_said_wins_over_the_card_even_where_it_equals_the_default_of_the_schema() -> None:
    [spec] = resolve(GenerationRequest(prompt="a circle", num_inference_steps=20, guidance_scale=7.5), CARD)
    assert (spec.num_inference_steps, spec.guidance_scale) == (20, 7.5)


def test_the_model_may_be_named_or_left_out() -> None:
    named, unnamed = (resolve(GenerationRequest(prompt="a", seed=1, model=name), CARD) for name in ("shapes", None))
    assert named == unnamed


def test_style_words_are_added_to_both_prompts() -> None:
    request = GenerationRequest(prompt="a cat in {braces}", negative_prompt="dog", style="photograph")
    [spec] = resolve(request, replace(CARD, styles=()))
    assert spec.prompt == "photograph of a cat in {braces}, 35mm, natural light, sharp focus"
    assert spec.negative_prompt == "dog, drawing, painting"


@given(seed=st.integers(0, MAX_SEED - 9), count=st.integers(1, 10))
def test_picture_k_has_seed_plus_k_and_all_else_is_equal(seed: int, count: int) -> None:
    specs = resolve(GenerationRequest(prompt="a circle", seed=seed, num_images=count), CARD)
    assert [spec.seed for spec in specs] == list(range(seed, seed + count))
    assert {replace(spec, seed=0) for spec in specs} == {a_spec(seed=0)}


def test_a_seed_that_leaves_no_room_for_all_pictures_is_refused_with_the_greatest_that_does() -> None:
    assert len(resolve(GenerationRequest(prompt="a", seed=MAX_SEED), CARD)) == 1
    error = refusal(seed=MAX_SEED, num_images=2)
    assert error.param == "seed"
    assert str(MAX_SEED - 1) in error.message
    assert len(resolve(GenerationRequest(prompt="a", seed=MAX_SEED - 1, num_images=2), CARD)) == 2


@pytest.mark.parametrize("count", [1, 10])
def test_a_random_seed_is_in_range_and_different_each_time(count: int) -> None:
    request = GenerationRequest(prompt="a circle", num_images=count)
    firsts = {resolve(request, CARD)[0].seed for _ in range(50)}
    assert len(firsts) > 40
    assert all(0 <= seed <= MAX_SEED - count + 1 for seed in firsts)


def test_job_ids_and_links_cannot_be_guessed() -> None:
    jobs = [new_job([a_spec()], "me", 0.0) for _ in range(100)]
    assert len({job.id for job in jobs}) == len({job.link for job in jobs}) == 100
    assert all(len(job.id) == len("job_") + 32 for job in jobs)
    assert all(len(job.link) == 22 for job in jobs)
