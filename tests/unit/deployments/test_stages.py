"""The table of stages agrees with what names a stage beside it."""

import re
from typing import get_args

import yaml

from deployments.model_config import ModelConfig
from deployments.stages import MODEL, STAGES, Domain, Phase
from ops.config import MODEL_APP, ROOT
from tests.operations import expressions

CONFIGS = [ROOT / "serve_config.yaml", *sorted((ROOT / "ops" / "configs").glob("*.yaml"))]
DEPLOYMENTS = [stage.deployment for stage in STAGES]


def test_each_phase_of_a_job_is_one_stages() -> None:
    assert get_args(Phase) == tuple(stage.phase for stage in STAGES)


def test_each_domain_of_tensors_is_one_stages() -> None:
    assert get_args(Domain) == tuple(stage.domain for stage in STAGES)


def test_each_stage_has_its_section_in_a_models_config() -> None:
    for stage in STAGES:
        assert getattr(ModelConfig(), stage.key).threads >= 1


def test_the_configs_of_the_checkout_scale_each_stage() -> None:
    for path in CONFIGS:
        for app in yaml.safe_load(path.read_text())["applications"]:
            if app["import_path"] == MODEL_APP:
                assert [each["name"] for each in app["deployments"]] == [MODEL, *DEPLOYMENTS], path


def test_dashboard_and_alerts_name_deployments_that_exist() -> None:
    named = {name for expression in expressions() for name in re.findall(r'deployment="(\w+)"', expression)}
    assert named
    assert named <= {*DEPLOYMENTS}
