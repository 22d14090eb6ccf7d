"""What `serve_config.yaml` may say: a default is held to the bounds of the field it is for."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.config import AppConfig, InputsConfig, QueueConfig
from deployments.model_config import DenoiserKnobs, ModelConfig
from deployments.settings import Settings
from models.validation import first_problem


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("num_inference_steps", 0, "defaults.num_inference_steps must be 1 or more"),
        ("sampler", "lms", "defaults.sampler must be 'default', 'ddim'"),
        ("stpes", 4, "defaults.stpes is not a known field"),
        ("prompt", "a circle", "defaults prompt can have no default"),
        ("seed", 7, "defaults seed can have no default"),
        ("deadline_s", 5, "defaults deadline_s can have no default"),
    ],
)
def test_a_default_that_no_request_may_ask_for_is_refused(name: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate({"defaults": {name: value}})
    assert first_problem(caught.value.errors())[1].startswith(words)


@pytest.mark.parametrize("entry", ["watermark", "package.module.Class", "package/module.py:Class", ":Class", "a b:C"])
def test_a_post_processor_that_is_no_path_to_a_class_is_refused(entry: str) -> None:
    with pytest.raises(ValidationError, match=r"must be a class as package\.module:Class"):
        ModelConfig(postprocess=("module:Class", "package.module:Class", entry))


def test_defaults_of_the_operator_are_taken() -> None:
    assert ModelConfig.model_validate(
        {"defaults": {"num_inference_steps": 4, "guidance_scale": 0}}
    ).defaults.chosen == {
        "num_inference_steps": 4,
        "guidance_scale": 0.0,
    }


def test_a_key_that_is_misspelt_is_refused() -> None:
    with pytest.raises(ValidationError, match="dtpye"):
        AppConfig.model_validate({"model": {"dtpye": "bfloat16"}})


WHOLE, REAL = "must be an integer", "must be a number"


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (InputsConfig, {"input_ttl_s": True}, f"input_ttl_s {REAL}, got true."),
        (InputsConfig, {"input_ttl_s": "60"}, f"input_ttl_s {REAL}, got '60'."),
        (InputsConfig, {"input_ttl_s": float("inf")}, "input_ttl_s must be a finite number, got inf."),
        (InputsConfig, {"max_input_bytes": True}, f"max_input_bytes {WHOLE}, got true."),
        (InputsConfig, {"max_owner_bytes": 65535}, "max_owner_bytes must be 65536 or more, got 65535."),
        (InputsConfig, {"max_total_bytes": 1000}, "max_total_bytes must be 65536 or more, got 1000."),
        (QueueConfig, {"deadline_s": True}, f"deadline_s {REAL}, got true."),
        (QueueConfig, {"max_backlog_s": "9"}, f"max_backlog_s {REAL}, got '9'."),
        (QueueConfig, {"max_waiting_per_owner": True}, f"max_waiting_per_owner {WHOLE}, got true."),
        (DenoiserKnobs, {"preview_interval_s": float("nan")}, "preview_interval_s must be a finite number, got nan."),
        (ModelConfig, {"vae": {"threads": "2"}}, f"vae.threads {WHOLE}, got '2'."),
        (AppConfig, {"queue": {"result_ttl_s": float("inf")}}, "queue.result_ttl_s must be a finite number, got inf."),
    ],
)
def test_what_is_no_number_is_refused_as_one(kind: type[Settings], values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(values)
    assert first_problem(caught.value.errors())[1] == words


def test_paths_and_lists_are_taken_as_yaml_has_them() -> None:
    config = AppConfig.model_validate({"state_dir": "/var", "models": ["a", "b"], "queue": {"deadline_s": 60}})
    assert (config.state_dir, config.models, config.queue.deadline_s) == (Path("/var"), ("a", "b"), 60.0)
    assert QueueConfig(max_waiting_per_owner=None, max_backlog_s=None).max_backlog_s is None


def test_a_deadline_beyond_its_own_cap_is_refused() -> None:
    with pytest.raises(ValidationError, match="deadline_s must be at most max_deadline_s"):
        QueueConfig(deadline_s=100, max_deadline_s=60)


@pytest.mark.parametrize(
    ("aliases", "words"),
    [
        ({"dall-e-3": "sdxl"}, 'aliases must stand for one of shapes, tiny; "dall-e-3" stands for "sdxl"'),
        ({"": "shapes"}, "aliases must not be empty"),
        ({"tiny": "shapes"}, 'aliases must not have the name of a model; choose another alias than "tiny"'),
    ],
)
def test_an_alias_is_another_name_of_a_served_model(aliases: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AppConfig.model_validate({"models": ["shapes", "tiny"], "aliases": aliases})
    assert words in first_problem(caught.value.errors())[1]


def test_a_config_has_no_aliases_and_exact_sizes_unless_it_says_so() -> None:
    assert (AppConfig().aliases, AppConfig().sizes) == ({}, "exact")
    opted_in = AppConfig.model_validate({"aliases": {"dall-e-3": "shapes"}, "sizes": "nearest"})
    assert (opted_in.aliases, opted_in.sizes) == ({"dall-e-3": "shapes"}, "nearest")


def test_a_host_name_that_is_none_is_refused_in_words() -> None:
    with pytest.raises(ValidationError) as caught:
        AppConfig.model_validate({"allowed_hosts": ["http://gpu-box"]})
    _, words = first_problem(caught.value.errors())
    assert words.startswith("allowed_hosts[0] must be a host name")
    assert "^" not in words
