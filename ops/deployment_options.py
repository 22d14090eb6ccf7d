"""The `deployments` of a config's applications: what Ray Serve accepts there and Darkroom cannot work with."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from deployments.model_config import DenoiserKnobs
from deployments.stages import DENOISER, MODEL, STAGES
from ops.config_errors import RENAMED, lines_of

GENERATION_APP = "deployments.app:build"
MODEL_APP = "deployments.app:build_model"
UI_APP = "gradio_ingress.app:build"
DEPLOYMENTS = {  # an application's import_path -> its deployments
    GENERATION_APP: ("ApiIngress", "Dispatcher"),
    MODEL_APP: (MODEL, *(stage.deployment for stage in STAGES)),
    UI_APP: ("GradioIngress",),
}
SINGLE_REPLICA = {  # deployments that have one replica -> why
    "Dispatcher": "it has the queue, and two would take it from each other without end",
    MODEL: "it reports the model's demand to the autoscaling policy, and each of two would know a part",
    "GradioIngress": "Gradio keeps the page's sessions in the memory of one process",
}


def deployment_problems(app: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the `deployments` of an application of Darkroom."""
    known = DEPLOYMENTS[app["import_path"]]
    seen = set[str]()
    for options in app.get("deployments") or []:
        name, path = options["name"], f"{app['name']}.{options['name']}."
        if name in seen:
            yield f"{app['name']}.deployments has {name} twice. Keep one of them."
        seen.add(name)
        if name not in known:
            yield _unknown_name(app["name"], name, known)
            continue
        if name in SINGLE_REPLICA:
            yield from _replica_problems(options, path)
        if name == DENOISER.deployment:
            yield from lines_of(DenoiserKnobs, options.get("user_config") or {}, f"{path}user_config.")


def _unknown_name(app: str, name: str, known: Collection[str]) -> str:
    remedy = f"is called {RENAMED[name]} now" if name in RENAMED else f"must be one of {', '.join(known)}"
    return f"{app}.deployments.name = {name!r}: {remedy}"


def _replica_problems(options: Mapping[str, Any], path: str) -> Iterator[str]:
    """Say which options let a deployment have a second replica. Serve's `auto` is up to a hundred."""
    scaling = options.get("autoscaling_config") or {}
    replicas = options.get("num_replicas")
    chosen = {} if replicas == "auto" and scaling.get("max_replicas") else {"num_replicas": replicas}
    chosen |= {f"autoscaling_config.{key}": scaling.get(key) for key in ("min_replicas", "max_replicas")}
    for key, count in chosen.items():
        if count == "auto" or (isinstance(count, int) and count > 1):
            yield f"{path}{key} must be 1, got {count!r}: {SINGLE_REPLICA[options['name']]}."
