"""LoRAs in requests: names become digests when a job is accepted."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.schema import GenerationRequest, request_data, resolve
from models.errors import InvalidRequest
from models.spec import AdapterCard, Lora
from models.validation import first_problem
from tests.fakes import CARD

ADAPTERS = (
    AdapterCard(name="chalk", sha256="c" * 64, rank=8),
    AdapterCard(name="stained-glass", sha256="d" * 64, rank=8),
    AdapterCard(name="xl", problem="is for models that attend to text of width 2048, not 128."),
)
WITH_ADAPTERS = replace(CARD, adapters=ADAPTERS)


def a_request(*loras: dict[str, Any]) -> GenerationRequest:
    return GenerationRequest.model_validate({"prompt": "a circle", "loras": list(loras)})


def refusal(*loras: dict[str, Any], card: Any = WITH_ADAPTERS) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolve(a_request(*loras), card)
    return caught.value.param, caught.value.message


def test_a_name_becomes_the_digest_of_its_file():
    [spec] = resolve(a_request({"name": "chalk", "weight": 0.5}, {"name": "stained-glass"}), WITH_ADAPTERS)
    assert spec.loras == (
        Lora(name="chalk", weight=0.5, sha256="c" * 64),
        Lora(name="stained-glass", weight=1.0, sha256="d" * 64),
    )


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
