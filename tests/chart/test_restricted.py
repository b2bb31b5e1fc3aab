"""Every pod of every values file may run in a namespace that enforces Pod Security's `restricted`."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.chart.helm import FILES, PODS, containers, find, pod_template, render
from tests.chart.restricted import violations
from tests.chart.test_kubernetes import objects

WRITTEN = {"/scratch", "/cache", "/state", "/dev/shm"}


@pytest.mark.parametrize("name", [*FILES, "everything"])
def test_every_pod_is_restricted(name: str) -> None:
    owners = [each for each in objects(name, "1.34") if each["kind"] in PODS]
    assert owners
    assert {
        each["metadata"]["name"]: found for each in owners if (found := violations(pod_template(each)["spec"]))
    } == {}


@pytest.mark.parametrize("name", [*FILES, "everything"])
def test_no_pod_can_speak_to_the_kubernetes_api(name: str) -> None:
    for owner in (each for each in objects(name, "1.34") if each["kind"] in PODS):
        assert pod_template(owner)["spec"]["automountServiceAccountToken"] is False


def test_what_servers_and_trainings_write_goes_to_volumes() -> None:
    for owner in (each for each in objects("everything", "1.34") if each["kind"] in ("Deployment", "TrainingRuntime")):
        for container in containers(owner):
            assert {mount["mountPath"] for mount in container["volumeMounts"]} <= WRITTEN
            homes = [variable["value"] for variable in container.get("env", ()) if variable["name"] == "HOME"]
            assert homes in (["/scratch"], [])


BREACHES: list[tuple[str, Any]] = [
    ("hostNetwork", lambda pod: pod.update(hostNetwork=True)),
    ("volume cache: hostPath", lambda pod: pod["volumes"].append({"name": "cache", "hostPath": {"path": "/"}})),
    ("runAsNonRoot", lambda pod: pod["securityContext"].pop("runAsNonRoot")),
    ("seccompProfile", lambda pod: pod["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    ("runAsUser 0", lambda pod: pod["containers"][0]["securityContext"].update(runAsUser=0)),
    ("privileged", lambda pod: pod["containers"][0]["securityContext"].update(privileged=True)),
    ("allowPriv", lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation")),
    ("not dropped", lambda pod: pod["containers"][0]["securityContext"].update(capabilities={"drop": ["NET_RAW"]})),
    ("SYS_ADMIN", lambda pod: pod["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_ADMIN"])),
    ("hostPort", lambda pod: pod["containers"][0]["ports"].append({"hostPort": 8000})),
    ("can be written", lambda pod: pod["containers"][0]["securityContext"].pop("readOnlyRootFilesystem")),
    ("not dropped", lambda pod: pod.update(initContainers=[{"name": "init"}])),
]


@pytest.mark.parametrize(("breach", "commit"), BREACHES)
def test_the_check_sees_each_breach(breach: str, commit: Any) -> None:
    pod = copy.deepcopy(pod_template(find(render("gpu"), "Deployment", "sentinel-qwen3-32b"))["spec"])
    assert violations(pod) == []
    commit(pod)
    assert any(breach in found for found in violations(pod))
