"""Every pod of every values file may run in a namespace that enforces Pod Security's `restricted`."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.chart.helm import FILES, containers, find, pod_template, pod_templates
from tests.chart.restricted import violations
from tests.chart.test_kubernetes import objects

WRITTEN = {"/scratch", "/cache", "/state", "/dev/shm"}


RUNNING = {"Deployment", "Pod", "TrainingRuntime"}
"""Kinds of ours that run something."""


@pytest.mark.parametrize("name", [*FILES, "everything"])
def test_every_pod_is_restricted(name: str) -> None:
    found = objects(name, "1.34")
    assert {each["metadata"]["name"]: faults for each in found if (faults := breached(each))} == {}
    assert {each["kind"] for each in found if pod_templates(each)} == RUNNING & {each["kind"] for each in found}


def breached(owner: dict[str, Any]) -> list[str]:
    return [fault for each in pod_templates(owner) for fault in violations(each)]


@pytest.mark.parametrize("name", [*FILES, "everything"])
def test_no_pod_can_speak_to_the_kubernetes_api(name: str) -> None:
    specs = [each["spec"] for owner in objects(name, "1.34") for each in pod_templates(owner)]
    assert specs and all(spec["automountServiceAccountToken"] is False for spec in specs)


def test_what_servers_and_trainings_write_goes_to_volumes() -> None:
    for owner in (each for each in objects("everything", "1.34") if each["kind"] in ("Deployment", "TrainingRuntime")):
        for container in containers(owner):
            assert {mount["mountPath"] for mount in container["volumeMounts"]} <= WRITTEN
            homes = [variable["value"] for variable in container.get("env", ()) if variable["name"] == "HOME"]
            assert homes in (["/scratch"], [])


def own(pod: Any) -> Any:
    """The security context of the first container."""
    return pod["containers"][0]["securityContext"]


BREACHES: list[tuple[str, Any]] = [
    ("hostNetwork", lambda pod: pod.update(hostNetwork=True)),
    ("hostPID", lambda pod: pod.update(hostPID=True)),
    ("hostIPC", lambda pod: pod.update(hostIPC=True)),
    ("volume host: hostPath", lambda pod: pod.setdefault("volumes", []).append({"name": "host", "hostPath": {}})),
    ("sysctls", lambda pod: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
    ("runAsNonRoot", lambda pod: pod["securityContext"].pop("runAsNonRoot")),
    (
        "pod: runAsNonRoot",
        lambda pod: (pod["securityContext"].update(runAsNonRoot=False), own(pod).update(runAsNonRoot=True)),
    ),
    ("pod: runAsUser 0", lambda pod: (pod["securityContext"].update(runAsUser=0), own(pod).update(runAsUser=1))),
    ("pod: seccomp", lambda pod: pod["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    ("no seccompProfile", lambda pod: pod["securityContext"].pop("seccompProfile")),
    ("pod: appArmor", lambda pod: pod["securityContext"].update(appArmorProfile={"type": "Unconfined"})),
    ("pod: seLinux", lambda pod: pod["securityContext"].update(seLinuxOptions={"type": "spc_t"})),
    (": seccompProfile", lambda pod: own(pod).update(seccompProfile={"type": "Unconfined"})),
    (": appArmor", lambda pod: own(pod).update(appArmorProfile={"type": "Unconfined"})),
    (": seLinux", lambda pod: own(pod).update(seLinuxOptions={"role": "sysadm_r"})),
    (": hostProcess", lambda pod: own(pod).update(windowsOptions={"hostProcess": True})),
    (": runAsUser 0", lambda pod: own(pod).update(runAsUser=0)),
    ("runAsNonRoot", lambda pod: own(pod).update(runAsNonRoot=False)),
    ("privileged", lambda pod: own(pod).update(privileged=True)),
    ("allowPriv", lambda pod: own(pod).pop("allowPrivilegeEscalation")),
    ("not dropped", lambda pod: own(pod).update(capabilities={"drop": ["NET_RAW"]})),
    ("SYS_ADMIN", lambda pod: own(pod)["capabilities"].update(add=["SYS_ADMIN"])),
    ("procMount", lambda pod: own(pod).update(procMount="Unmasked")),
    ("hostPort", lambda pod: pod["containers"][0].update(ports=[{"hostPort": 8000}])),
    ("another host", lambda pod: pod["containers"][0].update(livenessProbe={"httpGet": {"host": "10.0.0.1"}})),
    ("another host", lambda pod: pod["containers"][0].update(lifecycle={"preStop": {"tcpSocket": {"host": "a"}}})),
    ("can be written", lambda pod: own(pod).pop("readOnlyRootFilesystem")),
    ("init: capabilities are not dropped", lambda pod: pod.update(initContainers=[{"name": "init"}])),
    ("late: allowPriv", lambda pod: pod.update(ephemeralContainers=[{"name": "late"}])),
]
OWNERS = {"Deployment": "sentinel-judge", "TrainingRuntime": "sentinel-torch", "Pod": "sentinel-reach"}


@pytest.mark.parametrize(("kind", "name"), OWNERS.items(), ids=list(OWNERS))
@pytest.mark.parametrize(("breach", "commit"), BREACHES, ids=[breach for breach, _ in BREACHES])
def test_the_check_sees_each_breach(breach: str, commit: Any, kind: str, name: str) -> None:
    owner = copy.deepcopy(find(objects("everything", "1.34"), kind, name))
    assert breached(owner) == []
    commit(pod_template(owner)["spec"])
    assert any(breach in found for found in breached(owner))


def test_the_check_sees_old_annotations_of_apparmor() -> None:
    owner = copy.deepcopy(find(objects("everything", "1.34"), "Pod", "sentinel-reach"))
    owner["metadata"]["annotations"]["container.apparmor.security.beta.kubernetes.io/reach"] = "unconfined"
    assert breached(owner) == ["container.apparmor.security.beta.kubernetes.io/reach: unconfined"]


def test_a_pod_is_found_in_whatever_makes_it() -> None:
    pod = {"spec": {"containers": [{"name": "bad"}]}}
    made = {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": pod}}}}
    assert len(breached(made)) == 5 and breached({"kind": "List", "items": [made, made]}) == 2 * breached(made)
