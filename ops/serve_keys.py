"""Ray Serve's own keys in a config. Its schema ignores unknown ones, and checks no value of an `autoscaling_config`."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from ops.config_errors import lines_of

if TYPE_CHECKING:  # Ray takes seconds to import
    from ray.serve.config import AutoscalingConfig


def serve_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Say which keys Serve does not know, and which values its autoscaling would refuse once it is deployed."""
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
    from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

    yield from _unknown(ServeDeploySchema, config, "")
    for app in config["applications"]:
        path = f"{app['name']}."
        yield from _unknown(ServeApplicationSchema, app, path)
        yield from _unknown(AutoscalingPolicy, app.get("autoscaling_policy"), f"{path}autoscaling_policy.")
        for options in app.get("deployments") or []:
            of_deployment = f"{path}{options['name']}."
            yield from _unknown(DeploymentSchema, options, of_deployment)
            yield from _scaling_problems(AutoscalingConfig, options, of_deployment)


def _unknown(kind: type[BaseModel], given: Any, path: str) -> Iterator[str]:
    """Say which keys of a mapping, and of those in it, are no fields of its model. Lists are not looked into."""
    for key, value in given.items() if isinstance(given, Mapping) else ():
        if key in kind.model_fields:
            for nested in _models_in(kind.model_fields[key].annotation):
                yield from _unknown(nested, value, f"{path}{key}.")
        else:
            near = get_close_matches(str(key), kind.model_fields, n=1)
            remedy = f"; did you mean {near[0]}?" if near else f". Known are {', '.join(kind.model_fields)}."
            yield f"{path}{key} is not a known field{remedy}"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _scaling_problems(kind: "type[AutoscalingConfig]", options: Mapping[str, Any], path: str) -> list[str]:
    """Say which values of an autoscaling_config are out of bounds: Serve's schema takes any."""
    scaling = options.get("autoscaling_config")
    if not isinstance(scaling, Mapping):
        return []
    of_auto = kind.default().model_dump(exclude_unset=True) if options.get("num_replicas") == "auto" else {}
    return lines_of(kind, {**of_auto, **scaling}, f"{path}autoscaling_config.")
