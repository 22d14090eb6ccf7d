"""Keys of Serve's own in a config: those that it would ignore, and values that it would refuse once deployed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops import config
from ops.config import ROOT, UnusableConfig

Content = dict[str, Any]


def lines_of(tmp_path: Path, change: Callable[[Content], object]) -> list[str]:
    """Return the lines of the refusal of `serve_config.yaml` with a change; none if it can be used."""
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    change(content)
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(content))
    try:
        config.read(path)
    except UnusableConfig as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return []


def denoiser(content: Content) -> Content:
    [options] = [each for each in config.application(content, "shapes")["deployments"] if each["name"] == "Denoiser"]
    return options


def scaled(options: Content, **scaling: Any) -> None:
    """Let a deployment scale by itself."""
    options.pop("num_replicas", None)
    options["autoscaling_config"] = scaling


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda content: denoiser(content).update(num_replica=1),
            "shapes.Denoiser.num_replica is not a known field; did you mean num_replicas?",
        ),
        (
            lambda content: denoiser(content).update(ray_actor_options={"num_cpu": 1}),
            "shapes.Denoiser.ray_actor_options.num_cpu is not a known field; did you mean num_cpus?",
        ),
        (
            lambda content: denoiser(content).update(ray_actor_options={"gpu": 1}),
            "shapes.Denoiser.ray_actor_options.gpu is not a known field. Known are runtime_env, num_cpus, num_gpus, ",
        ),
        (
            lambda content: scaled(denoiser(content), max_replica=2),
            "shapes.Denoiser.autoscaling_config.max_replica is not a known field; did you mean max_replicas?",
        ),
        (
            lambda content: config.application(content, "ui").update(route_prefx="/"),
            "ui.route_prefx is not a known field; did you mean route_prefix?",
        ),
        (
            lambda content: config.application(content, "shapes").update(autoscaling_policy={"policy_fuction": "a:b"}),
            "shapes.autoscaling_policy.policy_fuction is not a known field; did you mean policy_function?",
        ),
        (
            lambda content: content["http_options"].update(prt=8001),
            "http_options.prt is not a known field; did you mean port?",
        ),
        (
            lambda content: content.update(proxy_locations="HeadOnly"),
            "proxy_locations is not a known field; did you mean proxy_location?",
        ),
    ],
)
def test_a_key_that_serve_would_ignore_is_refused_with_the_nearest_or_the_known_ones(
    tmp_path: Path, change: Callable[[Content], object], said: str
) -> None:
    [line] = lines_of(tmp_path, change)
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        ({"max_replicas": 0}, "max_replicas must be more than 0, got 0."),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas (2) must be greater than or equal to min_replicas (3)!"),
    ],
)
def test_bounds_of_autoscaling_that_serve_would_refuse_later_are_shown(
    tmp_path: Path, scaling: Content, said: str
) -> None:
    [line] = lines_of(tmp_path, lambda content: scaled(denoiser(content), **scaling))
    assert line.startswith("shapes.Denoiser.autoscaling_config")
    assert said in line


def test_auto_has_the_bounds_that_serve_gives_it(tmp_path: Path) -> None:
    change = {"num_replicas": "auto", "autoscaling_config": {"min_replicas": 2}}
    assert lines_of(tmp_path, lambda content: denoiser(content).update(change)) == []
