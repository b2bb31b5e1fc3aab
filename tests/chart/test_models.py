"""What the template of the model servers makes of its values."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.chart.helm import (
    CHART,
    Object,
    Refused,
    arguments,
    containers,
    environment,
    find,
    kinds,
    pod_template,
    pod_templates,
    render,
)
from tests.chart.test_kubernetes import objects
from tests.chart.test_templates import SERVER

ROOT = CHART.parents[1]


def server(**more: Any) -> list[Object]:
    return render(values={"models": [SERVER | more]})


# --- models.yaml ---


def test_a_server_is_told_what_its_values_say() -> None:
    deployment = find(objects("everything", "1.34"), "Deployment", "sentinel-judge")
    assert arguments(deployment) == [
        "Qwen/Qwen3-32B",
        "--served-model-name=judge",
        "--host=0.0.0.0",
        "--port=8000",
        "--revision=9216db5781bf21249d130ec9da846c4624c16137",
        "--dtype=bfloat16",
        "--max-model-len=16384",
        "--tensor-parallel-size=4",
        "--enable-prefix-caching",
        "--gpu-memory-utilization=0.9",
    ]
    spec = pod_template(deployment)["spec"]
    assert deployment["spec"]["replicas"] == 3
    assert spec["runtimeClassName"] == "nvidia" and spec["priorityClassName"] == "sentinel-batch"
    assert spec["nodeSelector"] == {"node.example.com/gpu": "h100"}
    assert spec["tolerations"][0]["value"] == "present"
    assert pod_template(deployment)["metadata"]["labels"]["team"] == "agents"
    assert containers(deployment)[0]["resources"]["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "4"}


def test_one_gpu_shares_nothing_and_a_cpu_server_asks_for_none() -> None:
    assert not any("tensor-parallel" in word for word in arguments(find(server(), "Deployment", "sentinel-user")))
    small = find(objects("everything", "1.34"), "Deployment", "sentinel-small")
    assert containers(small)[0]["resources"] == {} and containers(small)[0]["command"][:2] == ["python", "-m"]


def test_each_role_has_a_service_in_front_of_the_pods_of_its_model() -> None:
    found = objects("everything", "1.34")
    owners = {"user": "judge", "controller": "judge", "proposer": "small"}
    for role, model in owners.items():
        selector = find(found, "Service", f"sentinel-{role}")["spec"]["selector"]
        labels = pod_template(find(found, "Deployment", f"sentinel-{model}"))["metadata"]["labels"]
        assert selector.items() <= labels.items() and selector["sentinel.dev/model"] == model
        service = find(found, "Service", f"sentinel-{role}")
        assert service["spec"]["ports"] == [{"name": "http", "port": 8000, "targetPort": "http", "protocol": "TCP"}]
        named = {"sentinel.dev/model": model, "sentinel.dev/service": role}
        assert named.items() <= service["metadata"]["labels"].items()


def test_all_that_belongs_to_a_model_says_so() -> None:
    found = render(values={"models": [SERVER | {"replicas": 2, "cache": {"type": "claim"}}]})
    owned = {"Deployment", "Service", "PersistentVolumeClaim", "PodDisruptionBudget"}
    labels = {each["kind"]: each["metadata"]["labels"] for each in found if each["kind"] in owned}
    assert labels.keys() == owned
    assert all(each["sentinel.dev/model"] == "user" for each in labels.values())


def test_pods_are_found_by_their_deployment_and_by_no_other() -> None:
    judge, small = (
        find(objects("everything", "1.34"), "Deployment", f"sentinel-{name}") for name in ("judge", "small")
    )
    for one, other in ((judge, small), (small, judge)):
        selector = one["spec"]["selector"]["matchLabels"]
        assert selector.items() <= pod_template(one)["metadata"]["labels"].items()
        assert not selector.items() <= pod_template(other)["metadata"]["labels"].items()


def test_the_doctor_finds_the_servers_and_knows_which_need_no_gpu() -> None:
    """By the labels that pipelines/installed.py looks for."""
    source = (ROOT / "pipelines/installed.py").read_text(encoding="utf-8")
    part = re.search(r'^PARTS = "(.*)=(.*)"$', source, re.MULTILINE)
    assert part and '"sentinel.dev/device"' in source
    servers = (each for each in objects("everything", "1.34") if each["kind"] == "Deployment")
    found = {each["metadata"]["name"]: each["metadata"] for each in servers}
    assert {name: each["labels"]["sentinel.dev/device"] for name, each in found.items()} == {
        "sentinel-judge": "cuda",
        "sentinel-small": "cpu",
    }
    assert all(each["labels"][part[1]] == part[2] for each in found.values())
    assert found["sentinel-judge"]["labels"]["sentinel.dev/model"] == "judge"


def test_a_new_server_comes_when_the_old_one_has_left_its_gpus() -> None:
    spec = find(server(), "Deployment", "sentinel-user")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert pod_template({"spec": spec})["spec"]["terminationGracePeriodSeconds"] == 60


def test_pods_are_of_our_account_and_see_no_services_in_their_environment() -> None:
    """Each Service of a namespace is a dozen variables, of which VLLM_PORT and the like mean something to vLLM."""
    templates = [pod_template(each)["spec"] for each in objects("everything", "1.34") if pod_templates(each)]
    assert len(templates) == 4
    assert all((each["serviceAccountName"], each["enableServiceLinks"]) == ("sentinel", False) for each in templates)


def test_what_a_server_writes_goes_to_its_volumes() -> None:
    """The root file system is read-only, and the user has no home."""
    deployment = find(server(shm="9Gi"), "Deployment", "sentinel-user")
    found = environment(deployment)
    assert {found[name] for name in ("HOME", "TMPDIR")} == {"/scratch"} and found["USER"] == "sentinel"
    assert found["HF_HOME"] == "/cache/huggingface" and found["VLLM_NO_USAGE_STATS"] == "1"
    written = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    assert all(found[name].startswith("/scratch/") for name in written)
    mounts = {mount["name"]: mount["mountPath"] for mount in containers(deployment)[0]["volumeMounts"]}
    assert mounts == {"cache": "/cache", "scratch": "/scratch", "shm": "/dev/shm"}
    volumes = {volume.pop("name"): volume for volume in pod_template(deployment)["spec"]["volumes"]}
    assert volumes["shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "9Gi"}}
    assert volumes["scratch"] == {"emptyDir": {}} and volumes.keys() == mounts.keys()


@pytest.mark.parametrize("policy", ["Always", "Never"])
def test_nodes_pull_images_as_they_are_told(policy: str) -> None:
    told: dict[str, Any] = {"pullPolicy": policy}
    found = render("gpu", {"modelDefaults": told, "training": told, "test": told})
    pulled = [containers(each)[0]["imagePullPolicy"] for each in found if pod_templates(each)]
    assert pulled == [policy] * 3


def test_the_image_is_the_models_own_or_that_of_all() -> None:
    found = objects("everything", "1.34")
    assert containers(find(found, "Deployment", "sentinel-judge"))[0]["image"] == "vllm/vllm-openai:v0.32.0"
    assert "@sha256:" in containers(find(found, "Deployment", "sentinel-small"))[0]["image"]


def test_probes_ask_for_the_models_and_leave_time_to_load() -> None:
    container = containers(find(server(startSeconds=900), "Deployment", "sentinel-user"))[0]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"] == {"path": "/v1/models", "port": "http"}
    startup, live = container["startupProbe"], container["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 900
    assert live["periodSeconds"] * live["failureThreshold"] >= 300, "a busy server is slow to answer, not dead"
    assert live["timeoutSeconds"] == 20 and container["readinessProbe"]["timeoutSeconds"] == 5
    assert container["readinessProbe"]["periodSeconds"] == 10
    assert container["ports"] == [{"name": "http", "containerPort": 8000, "protocol": "TCP"}]
    deployment = find(server(startSeconds=900), "Deployment", "sentinel-user")
    assert deployment["spec"]["progressDeadlineSeconds"] == 1200


def test_a_cache_lives_with_the_pod_or_stays_or_is_ones_own() -> None:
    def cache(found: list[Object], name: str) -> Object:
        volumes = pod_template(find(found, "Deployment", name))["spec"]["volumes"]
        (volume,) = (each for each in volumes if each["name"] == "cache")
        return {key: value for key, value in volume.items() if key != "name"}

    everything = objects("everything", "1.34")
    assert cache(server(cache={"size": "9Gi"}), "sentinel-user") == {"emptyDir": {"sizeLimit": "9Gi"}}
    assert cache(everything, "sentinel-judge") == {"persistentVolumeClaim": {"claimName": "sentinel-judge-cache"}}
    assert cache(everything, "sentinel-small") == {"persistentVolumeClaim": {"claimName": "models"}}
    claim = find(everything, "PersistentVolumeClaim", "sentinel-judge-cache")["spec"]
    assert claim["storageClassName"] == "fast" and claim["resources"]["requests"]["storage"] == "80Gi"
    assert claim["accessModes"] == ["ReadWriteMany"]
    assert "PersistentVolumeClaim/sentinel-small-cache" not in kinds(everything)


def test_secrets_are_referred_to_and_variables_are_set() -> None:
    found = environment(find(objects("everything", "1.34"), "Deployment", "sentinel-judge"))
    assert found["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert found["HF_HUB_OFFLINE"] == "1" and found["VLLM_LOGGING_LEVEL"] == "WARNING"
    assert "HF_TOKEN" not in environment(find(server(), "Deployment", "sentinel-user"))


def test_several_replicas_have_a_disruption_budget() -> None:
    assert "PodDisruptionBudget/sentinel-user" not in kinds(server())
    budget = find(server(replicas=2), "PodDisruptionBudget", "sentinel-user")["spec"]
    assert budget["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "sentinel"
    assert budget["maxUnavailable"] == 1 and budget["selector"]["matchLabels"]["sentinel.dev/model"] == "user"


def test_two_models_cannot_share_a_service() -> None:
    with pytest.raises(Refused, match=r"models\[1\]\.services: 'user' is a Service of models\[0\] already"):
        render(values={"models": [SERVER, SERVER | {"name": "other", "services": ["user"]}]})
