"""The manifest for KubeRay and the image, as far as they can be checked without a cluster.

Kubernetes' own schemas check all but what KubeRay has added to them; of that, `KUBERAY` lists the keys in use.
"""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ops import config
from ops.cluster import RAY_SETTINGS
from ops.config import ROOT

MANIFEST = ROOT / "ops" / "rayservice.yaml"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text()))
SERVICE, *OTHERS = DOCUMENTS
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
GROUPS = {"head": CLUSTER["headGroupSpec"], **{group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}}
WORKERS = [name for name in GROUPS if name != "head"]
KUBERNETES = "1.33"
KUBERAY = {  # ray.io/v1, of KubeRay 1.6
    "spec": {
        "excludeHeadPodFromServeSvc",
        "rayClusterConfig",
        "rayClusterDeletionDelaySeconds",
        "serveConfigV2",
        "upgradeStrategy",
    },
    "rayClusterConfig": {
        "authOptions",
        "autoscalerOptions",
        "enableInTreeAutoscaling",
        "gcsFaultToleranceOptions",
        "headGroupSpec",
        "rayVersion",
        "workerGroupSpecs",
    },
    "head": {"rayStartParams", "template"},
    "worker": {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"},
}


def pod(group: str) -> dict[str, Any]:
    """Return the one pod of a group, as Kubernetes would be given it."""
    template = GROUPS[group]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": group, **template["metadata"]},
        "spec": template["spec"],
    }


def container(group: str) -> dict[str, Any]:
    [only] = pod(group)["spec"]["containers"]
    return only


def named(found: Any, key: str, within: str) -> Iterator[str]:
    """Yield what `key` says in every mapping that stands under the key `within`."""
    for name, value in (
        found.items() if isinstance(found, dict) else enumerate(found if isinstance(found, list) else [])
    ):
        if name == within and isinstance(value, dict):
            yield value[key]
        yield from named(value, key, within)


@pytest.fixture
def served() -> config.Config:
    """The config inside, read as any other."""
    return config.read(MANIFEST)


@pytest.mark.parametrize(
    "resource", [*OTHERS, *map(pod, GROUPS)], ids=lambda resource: f"{resource['kind']}-{resource['metadata']['name']}"
)
def test_every_resource_is_as_kubernetes_wants_it(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_the_check_knows_a_misspelt_key() -> None:
    wrong = pod("gpu")
    wrong["spec"] = {**wrong["spec"], "terminationGraceSeconds": 900}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_kuberay_is_told_nothing_that_it_does_not_know() -> None:
    assert SERVICE["apiVersion"] == "ray.io/v1"
    assert SERVICE["spec"].keys() == KUBERAY["spec"]
    assert CLUSTER.keys() == KUBERAY["rayClusterConfig"]
    assert GROUPS["head"].keys() == KUBERAY["head"]
    for name in WORKERS:
        assert GROUPS[name].keys() == KUBERAY["worker"]


def test_the_config_inside_is_one_that_can_be_served(served: config.Config) -> None:
    assert served.generation.models == ("sdxl",)


def test_the_config_inside_is_that_of_many_gpus_but_for_what_a_cluster_needs(served: config.Config) -> None:
    models = [app for app in served.serve.applications if app.name in served.generation.models]
    [beside] = [
        app for app in config.read(ROOT / "ops/configs/multi-gpu.yaml").serve.applications if app.name == "sdxl"
    ]
    [sdxl] = models
    assert sdxl.args == beside.args
    assert [each.name for each in sdxl.deployments] == [each.name for each in beside.deployments]
    for ours, theirs in zip(sdxl.deployments, beside.deployments, strict=True):
        assert without_most(ours) == without_most(theirs)


def without_most(deployment: Any) -> dict[str, Any]:
    """What is set of a deployment, but for how many replicas it may have."""
    given = deployment.model_dump(exclude_unset=True)
    given.get("autoscaling_config", {}).pop("max_replicas", None)
    return given


def test_nothing_that_must_last_is_kept_in_a_pod(served: config.Config) -> None:
    assert served.generation.database.startswith("postgresql+psycopg://")
    assert served.generation.images.startswith("s3://")


def test_strangers_cannot_call_and_the_page_knows_the_same_keys(served: config.Config) -> None:
    assert served.generation.keys_path
    assert not served.generation.allow_public
    [page] = [app for app in served.serve.applications if app.name == "ui"]
    assert page.args["api_keys_file"] == str(served.generation.keys_path)


def test_the_manifest_holds_no_secret() -> None:
    assert not [each for each in DOCUMENTS if each["kind"] == "Secret"]
    url = re.search(r"database_url: \S+://(\S+)@", MANIFEST.read_text())
    assert url
    assert ":" not in url[1]  # user, and no password


@pytest.mark.parametrize("group", WORKERS)
def test_a_replica_may_finish_its_pictures_before_its_pod_ends_and_its_pod_before_its_cluster(
    group: str, served: config.Config
) -> None:
    graces = [
        each.graceful_shutdown_timeout_s
        for app in served.serve.applications
        for each in app.deployments
        if isinstance(each.graceful_shutdown_timeout_s, int | float)
    ]
    command = container(group)["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:3] == ["python", "-m", "ops.drain"]
    drain_s = int(command[3])
    pod_s = pod(group)["spec"]["terminationGracePeriodSeconds"]
    assert max(graces) == 600
    assert max(graces) < drain_s < pod_s <= SERVICE["spec"]["rayClusterDeletionDelaySeconds"]


def test_a_second_cluster_never_takes_the_queue_from_the_first() -> None:
    assert SERVICE["spec"]["upgradeStrategy"] == {"type": "None"}


@pytest.mark.parametrize("group", GROUPS)
def test_every_process_of_ray_has_its_settings(group: str) -> None:
    given = {each["name"]: each["value"] for each in container(group)["env"]}
    assert given == {**RAY_SETTINGS, "OMP_WAIT_POLICY": "passive", "FORWARDED_ALLOW_IPS": "*"}


def test_nobody_but_the_edge_and_the_pods_reaches_serve_as_its_word_on_callers_is_believed() -> None:
    [policy] = [each for each in OTHERS if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "darkroom"]
    among, *others = policy["spec"]["ingress"]
    assert among == {"from": [{"podSelector": policy["spec"]["podSelector"]}]}
    [serving] = [rule for rule in others if {"port": "serve"} in rule["ports"]]
    assert serving["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}}]


def test_the_head_does_no_work() -> None:
    assert GROUPS["head"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}


@pytest.mark.parametrize("group", WORKERS)
def test_ray_knows_what_a_pod_may_use(group: str) -> None:
    resources, told = container(group)["resources"], GROUPS[group]["rayStartParams"]
    assert told["num-cpus"] == resources["requests"]["cpu"]
    assert int(told.get("num-gpus", 0)) == resources["limits"].get("nvidia.com/gpu", 0)


def test_the_groups_can_grow_to_what_the_config_may_ask_for(served: config.Config) -> None:
    wanted = 0.0
    for each in (each for app in served.serve.applications for each in app.deployments):
        most = (
            each.autoscaling_config["max_replicas"] if isinstance(each.autoscaling_config, dict) else each.num_replicas
        )
        wanted += most * (each.ray_actor_options.num_gpus or 0)
    assert wanted <= GROUPS["gpu"]["maxReplicas"]


def test_the_head_names_the_port_of_serve_or_some_kuberays_make_no_service() -> None:
    assert {"name": "serve", "containerPort": 8000} in container("head")["ports"]


def test_ray_is_the_one_of_the_image() -> None:
    assert f"ray=={CLUSTER['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_nothing_runs_as_root_or_may_become_it() -> None:
    pods = [
        *(pod(group)["spec"] for group in GROUPS),
        *(each["spec"]["template"]["spec"] for each in OTHERS if each["kind"] == "StatefulSet"),
    ]
    for spec in pods:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        for each in spec["containers"]:
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_only_the_pods_themselves_reach_rays_own_ports() -> None:
    [policy] = [
        each["spec"] for each in OTHERS if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "darkroom"
    ]
    assert policy["podSelector"]["matchLabels"].items() <= GROUPS["gpu"]["template"]["metadata"]["labels"].items()
    among, *others = policy["ingress"]
    assert among == {"from": [{"podSelector": policy["podSelector"]}]}
    opened = [port["port"] for rule in others for port in rule["ports"]]
    assert sorted(opened) == ["dashboard", "metrics", "serve"]
    known = {port["name"] for group in GROUPS for port in container(group)["ports"]}
    assert known.issuperset(opened)


def test_a_drain_leaves_a_pod_of_each_group() -> None:
    budgets = {
        each["spec"]["selector"]["matchLabels"]["ray.io/group"]: each["spec"]
        for each in OTHERS
        if each["kind"] == "PodDisruptionBudget"
    }
    assert sorted(budgets) == sorted(WORKERS)
    for name, budget in budgets.items():
        assert 0 < budget["minAvailable"] < GROUPS[name]["minReplicas"]


def test_the_operator_is_told_of_everything_that_is_to_be_brought() -> None:
    told = (ROOT / "docs" / "operations.md").read_text()
    secrets = {
        *named(DOCUMENTS, "name", "secretKeyRef"),
        *named(DOCUMENTS, "name", "secretRef"),
        *named(DOCUMENTS, "secretName", "secret"),
    }
    volumes = set(named(DOCUMENTS, "claimName", "persistentVolumeClaim"))
    assert len(secrets) == 3
    for name in secrets | volumes:
        assert f"`{name}`" in told or f" {name} " in told, name


def test_the_image_copies_what_is_there_and_no_weights() -> None:
    sources = [
        source
        for line in re.findall(r"^COPY (.*) \S+$", (ROOT / "ops" / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()
    ]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    assert "models/checkpoints" in ignored


def test_the_image_is_of_the_user_that_the_pods_run_as() -> None:
    said = re.search(r"^USER (\d+):(\d+)$", (ROOT / "ops" / "Dockerfile").read_text(), re.MULTILINE)
    assert said
    for group in GROUPS:
        context = pod(group)["spec"]["securityContext"]
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == said.groups()
