"""What `sentinel doctor` sees of charts/sentinel in a cluster: model servers, their services, the training runtime.

for finding in installed(place, core, apps, custom): print(finding)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from sentinel.pipelines.findings import Finding, State, unreadable
from sentinel.spec.cluster import Cluster, Role
from sentinel.spec.profile import ProfileSpec

PLAYING: tuple[Role, ...] = ("proposer", "rollout", "trainer", "evaluator")
"""Roles whose stages play episodes with the policy, or train it."""
PARTS = "app.kubernetes.io/part-of=sentinel"
CHART = "helm upgrade --install sentinel charts/sentinel"


def accelerated(place: ProfileSpec) -> Iterator[Finding]:
    """Whether all that plays or trains on GPUs asks for some; no cluster is needed to see it."""
    if place.device != "cuda" or place.cluster is None:
        return
    for role in PLAYING:
        asked = place.cluster.roles.get(role)
        if asked is None or asked.gpus == 0:
            mend = f"spec.cluster.roles.{role}: {{gpus: 1, variant: cuda, …}} in the profile, or spec.device: cpu"
            yield Finding(role, State.broken, "its stages compute on cuda, but its containers ask for no GPU", mend)


def installed(place: ProfileSpec, core: Any, apps: Any, custom: Any) -> Iterator[Finding]:
    """Model servers as they are, the services that the profile asks, and the runtime of its trainings.

    Args:
        place: The profile.
        core: Kubernetes' `CoreV1Api`.
        apps: Kubernetes' `AppsV1Api`.
        custom: Kubernetes' `CustomObjectsApi`.
    """
    if (cluster := place.cluster) is None:
        return
    yield from _services(place, cluster, core)
    yield from _servers(cluster, apps)
    if place.launches:
        yield _runtime(cluster, place.launches.runtime, custom)


def _services(place: ProfileSpec, cluster: Cluster, core: Any) -> Iterator[Finding]:
    """The Services of endpoints that are called by a bare name, and so stand in the cluster."""
    for role, endpoint in sorted(place.endpoints.items()):
        name = urlsplit(endpoint.url).hostname or ""
        if "." in name or name == "localhost":
            continue
        try:
            core.read_namespaced_service(name, cluster.namespace)
            yield Finding("service", State.ok, f"{name}, for the {role}")
        except Exception as error:
            mend = f"{CHART} -n {cluster.namespace} with a model whose `services` have the {role}"
            yield unreadable("service", name, error, mend)


def _servers(cluster: Cluster, apps: Any) -> Iterator[Finding]:
    try:
        found = apps.list_namespaced_deployment(cluster.namespace, label_selector=PARTS).items
    except Exception as error:
        yield unreadable("model servers", "deployments", error, "look with another account")
        return
    for deployment in found:
        yield _server(deployment, cluster.namespace)


def _server(deployment: Any, namespace: str) -> Finding:
    """The first thing that is wrong with a model server."""
    name, spec = deployment.metadata.name, deployment.spec
    (container, *_) = spec.template.spec.containers
    limits = (container.resources.limits if container.resources else None) or {}
    wanted, ready = spec.replicas or 0, deployment.status.ready_replicas or 0
    if container.image.partition("@")[0].endswith(":latest"):
        text, mend = (
            f"{name} runs {container.image}: another image every day",
            "name a version or a digest in the values",
        )
    elif (deployment.metadata.labels or {}).get("sentinel.dev/device") != "cpu" and not any(
        "/" in key for key in limits
    ):
        text, mend = f"{name} asks for no GPU", f"models[].gpus in the values, then {CHART}"
    elif ready < max(wanted, 1):
        text, mend = (
            f"{name}: {ready} of {wanted} replicas are ready",
            f"kubectl describe deployment {name} -n {namespace}",
        )
    else:
        return Finding("model server", State.ok, f"{name}: {ready} of {wanted} replicas are ready")
    return Finding("model server", State.broken, text, mend)


def _runtime(cluster: Cluster, name: str, custom: Any) -> Finding:
    place = ("trainer.kubeflow.org", "v1alpha1", cluster.namespace, "trainingruntimes")
    try:
        custom.get_namespaced_custom_object(*place, name)
    except Exception as error:
        mend = f"install Kubeflow Trainer v2, then {CHART} --set training.enabled=true,training.image=…"
        return unreadable("training runtime", name, error, mend)
    return Finding("training runtime", State.ok, name)
