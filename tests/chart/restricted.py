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


SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe")
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def violations(template: Object) -> list[str]:
    """What a pod, or the template of one, does against `restricted`; empty if it may run."""
    spec, annotations = template["spec"], (template.get("metadata") or {}).get("annotations") or {}
    found = [*_pod(spec), *(fault for each in _containers(spec) for fault in _container(each, spec))]
    return found + [
        f"{name}: {value}"
        for name, value in annotations.items()
        if name.startswith(APPARMOR) and value != "runtime/default" and not value.startswith("localhost/")
    ]


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
    if context.get("runAsNonRoot") is False:
        yield "pod: runAsNonRoot"
    yield from _context("pod", context)


def _context(name: str, context: Object) -> Iterator[str]:
    """What neither a pod's security context nor a container's may say, whatever the other one says."""
    if context.get("runAsUser") == 0:
        yield f"{name}: runAsUser 0"
    if (context.get("seccompProfile") or {}).get("type", "Localhost") not in PROFILES:
        yield f"{name}: seccompProfile"
    if (context.get("appArmorProfile") or {}).get("type", "Localhost") not in PROFILES:
        yield f"{name}: appArmorProfile"
    options = context.get("seLinuxOptions") or {}
    if options.get("user") or options.get("role") or options.get("type", "") not in SELINUX:
        yield f"{name}: seLinuxOptions"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{name}: hostProcess"


def _container(container: Object, spec: Object) -> Iterator[str]:
    pod, own, name = spec.get("securityContext") or {}, container.get("securityContext") or {}, container["name"]
    yield from _context(name, own)
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
    if not (own.get("seccompProfile") or pod.get("seccompProfile")):
        yield f"{name}: no seccompProfile"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield f"{name}: hostPort"
    if _asked_hosts(container):
        yield f"{name}: a probe or hook asks another host"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: the root file system can be written"


def _asked_hosts(container: Object) -> list[str]:
    """Hosts that probes and hooks ask by name: forbidden since Kubernetes 1.34, as the node asks them."""
    handlers = [container.get(name) or {} for name in HANDLERS]
    handlers += [each or {} for each in (container.get("lifecycle") or {}).values()]
    asked = (handler.get(kind) or {} for handler in handlers for kind in ("httpGet", "tcpSocket"))
    return [each["host"] for each in asked if each.get("host")]
