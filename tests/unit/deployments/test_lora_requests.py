"""LoRAs in requests: names become digests when a job is accepted."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.resolution import request_data, resolve
from deployments.schema import GenerationRequest
from models.errors import InvalidRequest
from models.model_card import AdapterCard
from models.spec import Lora
from models.validation import first_problem
from tests.fakes import CARD

ADAPTERS = (
    AdapterCard(name="chalk", sha256="c" * 64, rank=8, components=("unet", "text_encoder")),
    AdapterCard(name="stained-glass", sha256="d" * 64, rank=8, components=("unet",)),
    AdapterCard(name="xl", problem="is for models that attend to text of width 2048, not 128."),
)
WITH_ADAPTERS = replace(CARD, adapters=ADAPTERS)


def a_request(*loras: dict[str, Any]) -> GenerationRequest:
    return GenerationRequest.model_validate({"prompt": "a circle", "loras": list(loras)})


def refusal(*loras: dict[str, Any], card: Any = WITH_ADAPTERS) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolve(a_request(*loras), card)
    return caught.value.param, caught.value.message


def test_a_name_becomes_the_digest_of_its_file_and_whether_that_changes_texts():
    [spec] = resolve(a_request({"name": "chalk", "weight": 0.5}, {"name": "stained-glass"}), WITH_ADAPTERS)
    assert spec.loras == (
        Lora(name="chalk", weight=0.5, sha256="c" * 64),
        Lora(name="stained-glass", weight=1.0, sha256="d" * 64, changes_text=False),
    )


def test_a_prompt_of_loras_alone_is_refused_as_nothing_could_repeat_its_image():
    request = GenerationRequest.model_validate({"prompt": " <lora:chalk:0.5> ", "prompt_syntax": "weighted"})
    with pytest.raises(InvalidRequest, match="prompt: must have words besides"):
        resolve(request, WITH_ADAPTERS)


def test_a_name_that_is_near_another_is_refused_with_that():
    assert refusal({"name": "chalk"}, {"name": "stained glas"}) == (
        "loras[1].name",
        "loras[1].name: shapes has no LoRA 'stained glas'. Near are stained-glass.",
    )


def test_a_name_that_is_near_none_is_refused_with_what_there_is():
    assert refusal({"name": "zzz"})[1] == "loras[0].name: shapes has no LoRA 'zzz'. It has chalk, stained-glass."


def test_a_file_that_cannot_be_used_is_refused_with_its_reason():
    assert refusal({"name": "xl"})[1] == "loras[0].name: xl is for models that attend to text of width 2048, not 128."


def test_a_model_without_a_folder_says_so():
    assert "names no folder" in refusal({"name": "chalk"}, card=CARD)[1]


@pytest.mark.parametrize(
    ("loras", "field", "words"),
    [
        ([{"name": "a"}] * 2, "loras", "must have each name once; a is there 2 times"),
        ([{"name": str(k)} for k in range(5)], "loras", "must have 4 or fewer"),
        ([{"name": ""}], "loras[0].name", "must not be empty"),
        ([{"weight": 1}], "loras[0].name", "required"),
        ([{"name": "a", "weight": 6}], "loras[0].weight", "must be 5 or less"),
        ([{"name": "a", "weight": -6}], "loras[0].weight", "must be -5 or more"),
    ],
)
def test_each_bound_is_refused_by_the_path_that_was_sent(loras, field, words):
    with pytest.raises(ValidationError) as caught:
        a_request(*loras)
    found, message = first_problem(caught.value.errors())
    assert found == field
    assert words in message


def test_a_receipts_request_names_what_it_was_and_no_digest():
    [spec] = resolve(a_request({"name": "chalk", "weight": 0.5}), WITH_ADAPTERS)
    assert request_data(spec)["loras"] == [{"name": "chalk", "weight": 0.5}]


def weighted(prompt: str, **fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"prompt": prompt, "prompt_syntax": "weighted", **fields})


def refusal_of(request: GenerationRequest, card: Any = WITH_ADAPTERS) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolve(request, card)
    return caught.value.param, caught.value.message


def test_a_prompt_of_weighted_syntax_names_loras():
    request = weighted("a<lora:chalk:-0.5>(red:1.2) circle<lora:stained-glass>")
    [spec] = resolve(request, WITH_ADAPTERS)
    assert spec.prompt == "a (red:1.2) circle "
    assert spec.loras == (
        Lora(name="chalk", weight=-0.5, sha256="c" * 64),
        Lora(name="stained-glass", weight=1.0, sha256="d" * 64, changes_text=False),
    )
    again = {name: value for name, value in request_data(spec).items() if name != "output_compression"}
    assert resolve(GenerationRequest(**again), WITH_ADAPTERS) == [spec]


def test_loras_of_the_prompt_follow_those_of_the_request():
    [spec] = resolve(weighted("a circle <lora:chalk:0.5>", loras=[{"name": "stained-glass"}]), WITH_ADAPTERS)
    assert [lora.name for lora in spec.loras] == ["stained-glass", "chalk"]


def test_a_plain_prompt_names_none():
    [spec] = resolve(GenerationRequest(prompt="a circle <lora:chalk:0.5>"), WITH_ADAPTERS)
    assert (spec.prompt, spec.loras) == ("a circle <lora:chalk:0.5>", ())


def test_a_model_may_read_prompts_as_weighted_by_default():
    card = replace(WITH_ADAPTERS, defaults=CARD.defaults | {"prompt_syntax": "weighted"})
    [spec] = resolve(GenerationRequest(prompt="a circle <lora:chalk>"), card)
    assert (spec.prompt_syntax, len(spec.loras)) == ("weighted", 1)
    [plain] = resolve(GenerationRequest(prompt="a circle <lora:chalk>", prompt_syntax="plain"), card)
    assert (plain.prompt_syntax, len(plain.loras)) == ("plain", 0)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("<lora:chalc>", "prompt: shapes has no LoRA 'chalc'. Near are chalk."),
        ("<lora:xl:1>", "prompt: xl is for models that attend to text of width 2048, not 128."),
        ("<lora:chalk:9>", "prompt: “<lora:chalk:9>”: weight must be 5 or less, got 9."),
        (
            "<lora:chalk:nan>",
            "prompt: “<lora:chalk:nan>” must be <lora:name> or <lora:name:weight>, with a number for the weight.",
        ),
        ("<lora:chalk> <lora:chalk:2>", "prompt: must name each LoRA once; chalk is there 2 times."),
        ("<lora: >", "prompt: “<lora: >”: name must not be empty."),
        *(
            (tag, f"prompt: “{tag}” must be <lora:name> or <lora:name:weight>, with a number for the weight.")
            for tag in ("<lora:>", "<lora:chalk:a>", "<lora:chalk:1:2>", "<lora:chalk:>")
        ),
    ],
)
def test_what_a_prompt_cannot_name_is_refused(prompt, message):
    assert refusal_of(weighted(f"a circle {prompt}")) == ("prompt", message)


def test_a_name_in_prompt_and_loras_is_refused():
    request = weighted("a circle <lora:chalk:0.5>", loras=[{"name": "chalk"}])
    assert refusal_of(request) == ("prompt", "prompt: chalk is in loras too; name it in one of both.")


def test_more_loras_in_prompt_and_request_than_an_image_may_have_are_refused():
    card = replace(CARD, adapters=tuple(AdapterCard(name=name, sha256="a" * 64, rank=8) for name in "abcde"))
    request = weighted("a circle <lora:a><lora:b>", loras=[{"name": name} for name in "cde"])
    message = "prompt: must name 4 LoRAs or fewer together with loras, got 5."
    assert refusal_of(request, card) == ("prompt", message)


def test_a_lora_in_a_negative_prompt_is_refused():
    request = weighted("a circle", negative_prompt="<lora:chalk:1>")
    assert refusal_of(request) == (
        "negative_prompt",
        "negative_prompt: must not name LoRAs, as they change the whole image; move “<lora:chalk:1>” to prompt.",
    )


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize(
    ("text", "weight"), [("(red:10.5)", "10.5"), ("((red:5):-3)", "-15"), ("(red:1" + "0" * 400 + ")", "inf")]
)
def test_a_weight_that_leaves_only_noise_is_refused(field, text, weight):
    request = weighted(**{"prompt": "a circle", field: text})
    message = f"{field}: the weight of “red” must be from -10 to 10, got {weight}."
    assert refusal_of(request) == (field, message)
