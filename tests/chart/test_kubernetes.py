"""Every values file renders to what Kubernetes 1.25 to 1.37 take; of 1.20 there are no schemas, only its switches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api import models

from tests.chart.helm import CHART, FILES, NAMESPACE, Object, find, helm, kinds, pod_template, render, rendered_file
from tests.chart.schemas import faults, is_foreign

VERSIONS = ("1.25", "1.30", "1.34", "1.37")
EVERYTHING = Path(__file__).with_name("everything.yaml")


def values(name: str) -> dict[str, Any]:
    """What is rendered beside a values file of the chart."""
    from ruamel.yaml import YAML

    found: dict[str, Any] = YAML(typ="safe", pure=True).load(EVERYTHING) if name == "everything" else {}
    return found


def objects(name: str, version: str) -> list[Object]:
    base = "default" if name == "everything" else name
    return render(base, values(name), kube=f"{version}.0")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [*FILES, "everything"])
def test_kubernetes_takes_every_object(name: str, version: str) -> None:
    found = objects(name, version)
    assert len(found) >= 3
    assert [fault for each in found if not is_foreign(each) for fault in faults(each, version)] == []


def test_the_validation_is_strict() -> None:
    deployment = find(objects("gpu", "1.34"), "Deployment", "sentinel-qwen3-32b")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolicies"] = "Always"
    assert any("imagePullPolicies" in fault for fault in faults(deployment, "1.34"))


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_of_the_training_runtime_are_valid_pods(version: str) -> None:
    runtime = find(objects("everything", version), "TrainingRuntime", "sentinel-torch")
    template = pod_template(runtime)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "node", **template["metadata"]},
        "spec": template["spec"],
    }
    assert faults(pod, version) == []


def test_the_training_runtime_is_what_kubeflow_trainer_takes() -> None:
    """Its models drop unknown fields, so what comes back must be what went in."""
    runtime = find(objects("everything", "1.34"), "TrainingRuntime", "sentinel-torch")
    read = models.TrainerV1alpha1TrainingRuntime.from_dict(runtime)
    assert read is not None
    assert without_nulls(read.to_dict()) == runtime


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("version", "api"), [("1.20", "policy/v1beta1"), ("1.21", "policy/v1"), ("1.37", "policy/v1")])
def test_disruption_budgets_have_the_api_of_their_cluster(version: str, api: str) -> None:
    assert find(objects("gpu", version), "PodDisruptionBudget", "sentinel-qwen3-32b")["apiVersion"] == api


SERVED = {
    "v1",
    "apps/v1",
    "networking.k8s.io/v1",
    "policy/v1beta1",
    "rbac.authorization.k8s.io/v1",
    "scheduling.k8s.io/v1",
}
"""What Kubernetes 1.20 serves, of all that we ask for."""


@pytest.mark.parametrize("name", [*FILES, "everything"])
def test_kubernetes_1_20_is_asked_for_nothing_that_came_later(name: str) -> None:
    """Of 1.20 there is no schema; but for the budget, its objects are held against that of 1.25."""
    found = [each for each in objects(name, "1.20") if not is_foreign(each)]
    assert {each["apiVersion"] for each in found} <= SERVED
    assert [fault for each in found if each["apiVersion"] != "policy/v1beta1" for fault in faults(each, "1.25")] == []


def test_namespaces_are_selected_by_name_where_they_carry_it() -> None:
    def dns(version: str) -> Object:
        policy = find(objects("default", version), "NetworkPolicy", "sentinel-components")
        selector: Object = policy["spec"]["egress"][0]["to"][0]["namespaceSelector"]
        return selector

    assert dns("1.20") == {}
    assert dns("1.21") == {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}


@pytest.mark.parametrize("name", FILES)
def test_helm_lint_has_nothing_to_say(name: str) -> None:
    told = helm("lint", "--strict", str(CHART), f"--values={CHART / FILES[name]}", f"--namespace={NAMESPACE}")
    assert "0 chart(s) failed" in told and "[WARNING]" not in told and "[ERROR]" not in told


@pytest.mark.parametrize("version", ["1.20.0", "1.25.16-gke.100", "1.37.1"])
def test_the_chart_admits_the_versions_that_it_is_for(version: str) -> None:
    assert render(kube=version)


def test_a_values_file_of_ones_own_renders() -> None:
    assert "Deployment/sentinel-judge" in kinds(rendered_file(EVERYTHING))
