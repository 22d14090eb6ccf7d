"""What the `deployments` of a config may say, beyond what Serve checks itself."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops import config
from ops.config import ROOT, UnusableConfig
from ops.deployment_options import DEPLOYMENTS, SINGLE_REPLICA

QUEUE = "it has the queue, and two would take it from each other without end."
SESSIONS = "Gradio keeps the page's sessions in the memory of one process."
DEMAND = "it reports the model's demand to the autoscaling policy, and each of two would know a part."
TWO = {"min_replicas": 1, "max_replicas": 2}


def said_of(tmp_path: Path, **options: Any) -> list[str]:
    """Return the lines of the refusal of `serve_config.yaml` with other options of one deployment."""
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    for app in content["applications"]:
        for number, deployment in enumerate(app["deployments"]):
            if deployment["name"] == options["name"]:
                app["deployments"][number] = options
    return lines_of(tmp_path, content)


def lines_of(tmp_path: Path, content: dict[str, Any]) -> list[str]:
    """Return the lines of a config's refusal; none if it can be used."""
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(content))
    try:
        config.read(path)
    except UnusableConfig as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "Dispatcher", "num_replicas": 2}, [f"generation.Dispatcher.num_replicas must be 1, got 2: {QUEUE}"]),
        (
            {"name": "Dispatcher", "num_replicas": "auto"},
            [f"generation.Dispatcher.num_replicas must be 1, got 'auto': {QUEUE}"],
        ),
        (
            {"name": "Dispatcher", "autoscaling_config": TWO},
            [f"generation.Dispatcher.autoscaling_config.max_replicas must be 1, got 2: {QUEUE}"],
        ),
        ({"name": "GradioIngress", "num_replicas": 3}, [f"ui.GradioIngress.num_replicas must be 1, got 3: {SESSIONS}"]),
        (
            {"name": "Model", "autoscaling_config": TWO},
            [f"shapes.Model.autoscaling_config.max_replicas must be 1, got 2: {DEMAND}"],
        ),
    ],
)
def test_a_second_replica_of_what_has_one_is_refused_with_the_reason(
    tmp_path: Path, options: dict[str, Any], said: list[str]
) -> None:
    assert said_of(tmp_path, **options) == said


def test_a_deployment_that_comes_twice_is_refused(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    content["applications"][0]["deployments"].append({"name": "ApiIngress", "num_replicas": 3})
    assert lines_of(tmp_path, content) == ["generation.deployments has ApiIngress twice. Keep one of them."]


@pytest.mark.parametrize(
    "options",
    [
        {"name": "Dispatcher"},
        {"name": "Dispatcher", "num_replicas": 1},
        {"name": "Dispatcher", "autoscaling_config": {"min_replicas": 1, "max_replicas": 1}},
        {"name": "Dispatcher", "num_replicas": "auto", "autoscaling_config": {"max_replicas": 1}},
        {"name": "ApiIngress", "num_replicas": 2},
        {"name": "Denoiser", "num_replicas": "auto"},
    ],
)
def test_one_replica_and_several_of_other_deployments_can_be_used(tmp_path: Path, options: dict[str, Any]) -> None:
    assert said_of(tmp_path, **options) == []


def test_the_deployments_that_the_shipped_config_calls_single_are_those_that_are_refused() -> None:
    text = (ROOT / "serve_config.yaml").read_text()
    assert set(re.findall(r"- name: (\w+)\n +num_replicas: 1 # .*never more", text)) == set(SINGLE_REPLICA)


def test_the_names_of_deployments_are_those_of_the_shipped_config() -> None:
    apps = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"]
    assert {app["import_path"]: tuple(each["name"] for each in app["deployments"]) for app in apps} == DEPLOYMENTS


def test_a_live_knob_out_of_bounds_is_shown_with_key_value_and_bound(tmp_path: Path) -> None:
    said = said_of(tmp_path, name="Denoiser", user_config={"max_rows": 1})
    assert said == ["shapes.Denoiser.user_config.max_rows must be 2 or more, got 1."]


@pytest.mark.parametrize(
    ("app", "name", "remedy"),
    [
        ("shapes", "VaeDecoder", "is called Vae now"),
        ("shapes", "Denoisr", "must be one of Model, TextEncoder, Denoiser, Vae"),
        ("generation", "Dispatchr", "must be one of ApiIngress, Dispatcher"),
        ("ui", "Gradio", "must be one of GradioIngress"),
    ],
)
def test_a_deployment_that_an_application_does_not_have_is_named_with_the_remedy(
    tmp_path: Path, app: str, name: str, remedy: str
) -> None:
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config.application(content, app)["deployments"] = [{"name": name, "num_replicas": 2}]
    assert lines_of(tmp_path, content) == [f"{app}.deployments.name = {name!r}: {remedy}"]
