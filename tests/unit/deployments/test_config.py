"""What `serve_config.yaml` may say: a default is held to the bounds of the field it is for."""

import pytest
from pydantic import ValidationError

from deployments.config import AppConfig, ModelConfig, QueueConfig


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("num_inference_steps", 0, "num_inference_steps must be 1 or more"),
        ("sampler", "lms", "sampler must be 'default', 'ddim'"),
        ("stpes", 4, "stpes is not a known field"),
        ("prompt", "a circle", "prompt can have no default"),
        ("seed", 7, "seed can have no default"),
        ("deadline_s", 5, "deadline_s can have no default"),
    ],
)
def test_a_default_that_no_request_may_ask_for_is_refused(name: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelConfig(defaults={name: value})


@pytest.mark.parametrize("entry", ["watermark", "package.module.Class", "package/module.py:Class", ":Class", "a b:C"])
def test_a_post_processor_that_is_no_path_to_a_class_is_refused(entry: str) -> None:
    with pytest.raises(ValidationError, match=r"must be a class as package\.module:Class"):
        ModelConfig(postprocess=("module:Class", "package.module:Class", entry))


def test_defaults_of_the_operator_are_taken() -> None:
    assert ModelConfig(defaults={"num_inference_steps": 4, "guidance_scale": 0}).defaults["num_inference_steps"] == 4


def test_a_key_that_is_misspelt_is_refused() -> None:
    with pytest.raises(ValidationError, match="dtpye"):
        AppConfig.model_validate({"model": {"dtpye": "bfloat16"}})


def test_a_deadline_beyond_its_own_cap_is_refused() -> None:
    with pytest.raises(ValidationError, match="deadline_s must be at most max_deadline_s"):
        QueueConfig(deadline_s=100, max_deadline_s=60)
