"""What each template makes of its values, one test or more for each file of charts/sentinel/templates.

That of the model servers is in test_models.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.chart.helm import (
    CHART,
    arguments,
    containers,
    environment,
    find,
    helm,
    kinds,
    pod_template,
    render,
)
from tests.chart.test_kubernetes import objects

ROOT = CHART.parents[1]
SERVER = {"name": "user", "model": "org/model", "gpus": 1}
"""The least that a model server can be."""


# --- what there is by default, and in the shipped files ---


def test_by_default_nothing_runs_and_nobody_has_rights() -> None:
    assert kinds(render()) == ["NetworkPolicy/sentinel-components", "Pod/sentinel-reach", "ServiceAccount/sentinel"]


def test_kind_adds_the_state_volume_only() -> None:
    assert set(kinds(render("kind"))) - set(kinds(render())) == {"PersistentVolumeClaim/sentinel-state"}


def test_the_services_are_those_that_the_gpu_profile_asks() -> None:
    profile = YAML(typ="safe", pure=True).load(ROOT / "experiments/profiles/gpu.yaml")
    found = render("gpu")
    for role, endpoint in profile["spec"]["endpoints"].items():
        service = find(found, "Service", f"sentinel-{role}")
        (port,) = service["spec"]["ports"]
        assert endpoint["url"] == f"http://sentinel-{role}:{port['port']}/v1"
    claim = find(found, "PersistentVolumeClaim", profile["spec"]["cluster"]["state"]["claim"])
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_models_are_those_that_the_paper_experiment_asks_for() -> None:
    spec = YAML(typ="safe", pure=True).load(ROOT / "experiments/retail.yaml")["spec"]
    wanted = {spec["environment"]["user"]["model"], spec["controller"]["model"], spec["proposer"]["model"]}
    served = {word for word in arguments(find(render("gpu"), "Deployment", "sentinel-qwen3-32b")) if "served" in word}
    assert served == {f"--served-model-name={model}" for model in wanted}


@pytest.mark.parametrize("name", ["kind", "gpu"])
def test_chart_and_profile_name_the_same_secret_and_claim(name: str) -> None:
    cluster = YAML(typ="safe", pure=True).load(ROOT / f"experiments/profiles/{name}.yaml")["spec"]["cluster"]
    values = YAML(typ="safe", pure=True).load(CHART / "values.yaml")
    values["s3"].update(YAML(typ="safe", pure=True).load(CHART / f"values-{name}.yaml").get("s3", {}))
    (secret,) = cluster["secrets"]
    assert secret["name"] == values["s3"]["existingSecret"]
    assert set(secret["env"].values()) == {values["s3"]["accessKeyField"], values["s3"]["secretKeyField"]}
    assert cluster["state"]["claim"] == values["state"]["claim"]


# --- _helpers.tpl ---


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("sentinel", {}, "sentinel"),
        ("my-sentinel", {}, "my-sentinel"),
        ("prod", {}, "prod-sentinel"),
        ("prod", {"nameOverride": "loop"}, "prod-loop"),
        ("prod", {"fullnameOverride": "agents"}, "agents"),
        ("a" * 50, {}, "a" * 40),
    ],
)
def test_names_follow_the_release(release: str, values: dict[str, Any], name: str) -> None:
    assert f"ServiceAccount/{name}" in kinds(render(values=values, release=release))


def test_every_object_carries_the_recommended_labels_and_those_of_the_values() -> None:
    for each in objects("everything", "1.34"):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "sentinel" and labels["app.kubernetes.io/instance"] == "sentinel"
        if each["kind"] != "Pod":
            assert labels["cost-centre"] == "agents" and labels["app.kubernetes.io/managed-by"] == "Helm"


def test_pull_secrets_reach_every_pod() -> None:
    for owner in (
        each for each in objects("everything", "1.34") if each["kind"] in ("Deployment", "TrainingRuntime", "Pod")
    ):
        assert pod_template(owner)["spec"]["imagePullSecrets"] == [{"name": "registry-credentials"}]


# --- serviceaccount.yaml, role.yaml, rolebinding.yaml ---


def test_the_account_has_no_token_and_takes_annotations() -> None:
    account = find(objects("everything", "1.34"), "ServiceAccount", "sentinel")
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["annotations"] == {"example.com/identity": "agents"}


def test_the_launcher_may_do_what_it_needs_and_no_more() -> None:
    rules = find(render("gpu"), "Role", "sentinel-launcher")["rules"]
    allowed = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed == {
        *(("trainjobs", verb) for verb in ("create", "get", "patch", "delete")),
        ("trainingruntimes", "get"),
        ("pods", "list"),
        ("pods/log", "get"),
    }
    assert {group for rule in rules for group in rule["apiGroups"]} == {"trainer.kubeflow.org", ""}
    (runtimes,) = (rule for rule in rules if "trainingruntimes" in rule["resources"])
    assert runtimes["resourceNames"] == ["sentinel-torch"]
    assert "*" not in json.dumps(rules)


def test_the_right_goes_to_the_accounts_of_the_pipelines() -> None:
    found = render("gpu", {"pipelines": {"serviceAccounts": ["a", "b"]}})
    binding = find(found, "RoleBinding", "sentinel-launcher")
    assert [(each["name"], each["namespace"]) for each in binding["subjects"]] == [("a", "kubeflow"), ("b", "kubeflow")]
    assert {each["kind"] for each in binding["subjects"]} == {"ServiceAccount"}
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sentinel-launcher"}


# --- state.yaml ---


def test_the_state_volume_outlives_the_release_unless_told_otherwise() -> None:
    kept = find(render("gpu"), "PersistentVolumeClaim", "sentinel-state")
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in find(render("kind"), "PersistentVolumeClaim", "sentinel-state")["metadata"]


@pytest.mark.parametrize(
    ("name", "size", "mode"), [("gpu", "200Gi", "ReadWriteMany"), ("kind", "5Gi", "ReadWriteOnce")]
)
def test_the_state_volume_is_as_large_and_as_shared_as_the_values_say(name: str, size: str, mode: str) -> None:
    claim = find(render(name), "PersistentVolumeClaim", "sentinel-state")["spec"]
    assert claim == {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
    other = find(objects("everything", "1.34"), "PersistentVolumeClaim", "sentinel-state")
    assert other["spec"]["storageClassName"] == "fast"


# --- trainingruntime.yaml ---


def test_the_training_runtime_has_nodes_that_meet_through_the_bucket() -> None:
    runtime = find(objects("everything", "1.34"), "TrainingRuntime", "sentinel-torch")
    (container,) = containers(runtime)
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 4, "torch": {}}
    assert container["name"] == "node" and container["command"] == ["python", "-m", "sentinel.pod.node"]
    assert environment(runtime) == {
        "AWS_ACCESS_KEY_ID": {"secretKeyRef": {"name": "sentinel-s3", "key": "accesskey"}},
        "AWS_SECRET_ACCESS_KEY": {"secretKeyRef": {"name": "sentinel-s3", "key": "secretkey"}},
    }
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"scratch": "/scratch", "shm": "/dev/shm", "state": "/state"}
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node", "whose logs the launcher reads"
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert runtime["metadata"]["labels"]["trainer.kubeflow.org/framework"] == "torch"
    template = pod_template(runtime)
    assert template["metadata"]["labels"]["cost-centre"] == "agents"
    spec = template["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert volumes["scratch"]["emptyDir"] == {"sizeLimit": "100Gi"}
    assert volumes["state"]["persistentVolumeClaim"] == {"claimName": "sentinel-state"}
    assert spec["nodeSelector"] == {"node.example.com/gpu": "h100"} and spec["tolerations"] == [
        {"key": "nvidia.com/gpu"}
    ]
    assert (spec["priorityClassName"], spec["terminationGracePeriodSeconds"]) == ("sentinel-batch", 120)
    assert container["image"] == "sentinel-trainer-cuda:0.1.0"
    without = find(render("gpu", {"state": {"enabled": False}}), "TrainingRuntime", "sentinel-torch")
    assert "state" not in {volume["name"] for volume in pod_template(without)["spec"]["volumes"]}


# --- networkpolicy.yaml ---


def test_model_servers_are_asked_by_our_pods_and_by_prometheus() -> None:
    policy = find(objects("everything", "1.34"), "NetworkPolicy", "sentinel-models")["spec"]
    labels = pod_template(find(objects("everything", "1.34"), "Deployment", "sentinel-judge"))["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (servers,) = policy["podSelector"]["matchExpressions"]
    assert servers == {"key": "sentinel.dev/model", "operator": "Exists"} and "sentinel.dev/model" in labels
    for each in ("sentinel-torch", "sentinel-reach"):
        (other,) = (found for found in objects("everything", "1.34") if found["metadata"]["name"] == each)
        assert "sentinel.dev/model" not in pod_template(other)["metadata"]["labels"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8000}]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}} in rule["from"]
    assert all(peer for peer in rule["from"]), "an empty peer is everybody"
    assert policy["policyTypes"] == ["Ingress", "Egress"]


def test_weights_are_downloaded_only_where_that_is_allowed() -> None:
    def ports(**network: Any) -> set[int]:
        policy = find(render("gpu", {"networkPolicy": network}), "NetworkPolicy", "sentinel-models")
        return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

    assert ports() == {53, 443} and ports(modelDownload=False) == {53}


def test_components_reach_servers_bucket_names_and_kubeflow_and_nothing_else() -> None:
    policy = find(objects("everything", "1.34"), "NetworkPolicy", "sentinel-components")["spec"]
    assert policy["podSelector"] == {"matchExpressions": [{"key": "sentinel.dev/role", "operator": "Exists"}]}
    assert policy["policyTypes"] == ["Ingress", "Egress"], "what is not named is denied"
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": {"sentinel.dev/role": "trainer"}}}]}]
    dns, trainers, servers, bucket, kubeflow, api = policy["egress"]
    assert {(port["protocol"], port["port"]) for port in dns["ports"]} == {("UDP", 53), ("TCP", 53)} and dns["to"]
    assert trainers == {"to": [{"podSelector": {"matchLabels": {"sentinel.dev/role": "trainer"}}}]}
    assert [port["port"] for port in servers["ports"]] == [8000] and servers["to"][0]["podSelector"]
    assert bucket == {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 9000}]}
    assert {port["port"] for port in kubeflow["ports"]} == {8888, 8887, 8080} and kubeflow["to"]
    assert {port["port"] for port in api["ports"]} == {443, 6443}


def test_the_bucket_of_kind_is_in_the_namespace_of_kubeflow() -> None:
    policy = find(render("kind"), "NetworkPolicy", "sentinel-components")["spec"]
    assert policy["egress"][3]["to"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeflow"}}}
    ]


def test_pipelines_of_another_namespace_are_bound_there_and_reach_what_they_need() -> None:
    elsewhere = {"pipelines": {"namespace": "team", "api": {"namespace": "kubeflow-system"}}, "models": [SERVER]}
    found = render(values=elsewhere)
    policy = find(found, "NetworkPolicy", "sentinel-components")
    assert policy["metadata"]["namespace"] == "team"
    _, _, servers, _, kubeflow, _ = policy["spec"]["egress"]
    assert servers["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == "kubeflow"
    assert kubeflow["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == "kubeflow-system"
    asked, _ = find(found, "NetworkPolicy", "sentinel-models")["spec"]["ingress"][0]["from"]
    assert asked["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "team"}
    assert arguments(find(found, "Pod", "sentinel-reach"))[1].startswith("http://ml-pipeline.kubeflow-system:8888/")


def test_policies_can_leave_pipelines_alone_or_be_left_out() -> None:
    only = render("gpu", {"networkPolicy": {"pipelinePods": False}})
    selector = find(only, "NetworkPolicy", "sentinel-components")["spec"]["podSelector"]
    labels = pod_template(find(only, "TrainingRuntime", "sentinel-torch"))["metadata"]["labels"]
    assert selector["matchLabels"].items() <= labels.items() and "sentinel.dev/role" in labels
    assert not [each for each in kinds(render("kind", {"networkPolicy": {"pipelinePods": False}})) if "Policy" in each]
    assert not [each for each in kinds(render("gpu", {"networkPolicy": {"enabled": False}})) if "Policy" in each]


# --- quota.yaml, priorityclass.yaml, kueue.yaml, monitoring.yaml ---


def test_quota_and_priority_say_what_the_values_say() -> None:
    found = objects("everything", "1.34")
    hard = {"requests.nvidia.com/gpu": "32", "count/pods": "200"}
    assert find(found, "ResourceQuota", "sentinel")["spec"]["hard"] == hard
    priority = find(found, "PriorityClass", "sentinel-batch")
    assert (priority["value"], priority["preemptionPolicy"], priority["globalDefault"]) == (500, "Never", False)


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
def test_kueue_has_the_api_of_the_cluster_and_the_servers_wait_in_its_queue(version: str) -> None:
    values = {"kueue": {"enabled": True, "clusterQueue": "agents"}}
    found = render("gpu", values, apis=[f"kueue.x-k8s.io/{version}"])
    queue = find(found, "LocalQueue", "sentinel")
    assert queue["apiVersion"] == f"kueue.x-k8s.io/{version}" and queue["spec"] == {"clusterQueue": "agents"}
    labels = find(found, "Deployment", "sentinel-qwen3-32b")["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"] == "sentinel"


def test_prometheus_reads_the_services_of_the_models() -> None:
    found = objects("everything", "1.34")
    monitor = find(found, "ServiceMonitor", "sentinel")
    service = find(found, "Service", "sentinel-user")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["interval"] == "30s"
    present = {"key": "sentinel.dev/model", "operator": "Exists"}
    assert (
        monitor["spec"]["selector"]["matchExpressions"] == [present] and present["key"] in service["metadata"]["labels"]
    )
    assert endpoint["port"] == service["spec"]["ports"][0]["name"] and endpoint["path"] == "/metrics"


def test_the_dashboard_is_json_and_grafana_finds_it() -> None:
    dashboard = find(objects("everything", "1.34"), "ConfigMap", "sentinel-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    panels = json.loads(dashboard["data"]["sentinel.json"])["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(panels) == 6 and all("vllm:" in each for each in expressions)
    assert len({json.dumps(panel["gridPos"]) for panel in panels}) == len(panels)


# --- tests/reach.yaml ---


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()


def test_the_test_pod_asks_kubeflow_and_every_service_and_has_the_secret() -> None:
    pod = find(objects("everything", "1.34"), "Pod", "sentinel-reach")
    assert pod["metadata"]["annotations"] == {
        "helm.sh/hook": "test",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    assert pod["metadata"]["labels"]["sentinel.dev/role"] == "test", "the network policy knows it by that"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert containers(pod)[0]["resources"]["limits"] == {"cpu": "500m", "memory": "256Mi"}
    assert containers(pod)[0]["command"] == ["python", "-c"]
    assert arguments(pod)[1:] == [
        "http://ml-pipeline.kubeflow:8888/apis/v2beta1/healthz",
        *(f"http://sentinel-{role}:8000/v1/models" for role in ("user", "controller", "proposer")),
    ]
    assert environment(pod) == {
        "AWS_ACCESS_KEY_ID": {"secretKeyRef": {"name": "sentinel-s3", "key": "accesskey"}},
        "AWS_SECRET_ACCESS_KEY": {"secretKeyRef": {"name": "sentinel-s3", "key": "secretkey"}},
    }


@pytest.mark.parametrize(("status", "code"), [(200, 0), (500, 1)])
def test_the_test_pod_fails_if_one_does_not_answer(status: int, code: int) -> None:
    """Its program, run here as the pod runs it."""
    program = arguments(find(render(), "Pod", "sentinel-reach"))[0]
    with answering(200) as good, answering(status) as other:
        command = [sys.executable, "-c", program, good, other]
        done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == code, done.stderr
    assert len(re.findall(r"^(ok|broken) ", done.stdout, re.MULTILINE)) == 2


# --- NOTES.txt ---


@pytest.mark.parametrize("name", ["kind", "gpu"])
def test_the_notes_say_what_to_do_next(name: str) -> None:
    options = [f"--values={CHART / f'values-{name}.yaml'}", "--namespace=kubeflow", "--dry-run=client"]
    notes = helm("install", "sentinel", str(CHART), *options).partition("NOTES:")[2]
    secret = {"kind": "mlpipeline-minio-artifact", "gpu": "sentinel-s3"}[name]
    assert f"kubectl create secret generic {secret} -n kubeflow" in notes and "helm test sentinel -n kubeflow" in notes
    assert ("http://sentinel-user:8000/v1" in notes) == (name == "gpu")
    assert "\n\n\n" not in notes


def test_no_template_is_untested() -> None:
    """A new template must be seen in one of these files, in a heading."""
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    headings = " ".join(re.findall(r"^# --- (.*) ---$", tests, re.MULTILINE))
    templates = sorted(path.name for path in (CHART / "templates").rglob("*") if path.is_file())
    assert [name for name in templates if name not in headings] == []
