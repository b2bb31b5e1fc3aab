"""Kubernetes' Pod Security Standard `restricted`, as code: what a pod has that the profile does not allow.

The controls are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/ (`baseline` included),
for Linux pods. `readOnlyRootFilesystem` is no part of the standard; it is asked for here as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.chart.helm import Object

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"
}  # fmt: skip
ADDED = {"NET_BIND_SERVICE"}
PROFILES = {"RuntimeDefault", "Localhost"}


def violations(spec: Object) -> list[str]:
    """What the spec of a pod does against `restricted`; empty if it may run."""
    return [*_pod(spec), *(fault for each in _containers(spec) for fault in _container(each, spec))]


def _containers(spec: Object) -> list[Object]:
    lists = (spec.get(name) or [] for name in ("initContainers", "containers", "ephemeralContainers"))
    return [container for each in lists for container in each]


def _pod(spec: Object) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes") or []:
        if kinds := set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']}: {', '.join(sorted(kinds))}"
    context = spec.get("securityContext") or {}
    if context.get("sysctls"):
        yield "sysctls"
    if (context.get("seLinuxOptions") or {}).get("user"):
        yield "seLinuxOptions"


def _container(container: Object, spec: Object) -> Iterator[str]:
    pod, own, name = spec.get("securityContext") or {}, container.get("securityContext") or {}, container["name"]
    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"{name}: capabilities are not dropped"
    if added := set(capabilities.get("add") or []) - ADDED:
        yield f"{name}: capabilities {', '.join(sorted(added))}"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{name}: runAsNonRoot"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield f"{name}: runAsUser 0"
    if (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in PROFILES:
        yield f"{name}: seccompProfile"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield f"{name}: hostPort"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: the root file system can be written"
