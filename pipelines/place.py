"""Where a task runs: image, resources, secrets, volumes and retries, from the profile. Never what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp import kubernetes

from sentinel.launch.trainjobs import POD
from sentinel.spec.cluster import Cluster, Resources, Role
from sentinel.spec.launcher import TrainJobLauncher

SCRATCH = "/scratch"
"""The images' folder for temporary files; everything else in them may be read-only."""
ROLE_LABEL = "sentinel.dev/role"
"""Label by which the network policies of charts/sentinel know our pods."""

LAUNCHER = Resources(cpu="1", memory="4Gi")
"""What a container needs that launches nodes, and waits."""
LEAVING_HOURS = 1
"""Hours that it has beyond its own limit of time, which ends the training in an orderly way."""


@dataclass(frozen=True)
class Placement:
    """Puts tasks where the profile says."""

    cluster: Cluster
    images: Mapping[Role, str]
    profile: str
    """Name of the profile, which stages read for threads, device and endpoints."""
    launcher: TrainJobLauncher | None = None
    """Set if the trainer's containers only launch nodes, and so need next to nothing themselves."""

    def put(self, task: Any, role: Role, name: str) -> Any:
        """Configure a task; returns it."""
        resources = self._asked(role)
        task.set_container_image(self.images[role]).set_display_name(name)
        task.set_caching_options(False)
        kubernetes.add_pod_label(task, ROLE_LABEL, role)
        self._environment(task)
        self._resources(task, resources)
        self._nodes(task, resources)
        self._volumes(task, resources)
        self._retries(task)
        if self._launcher(role):
            for variable, field in POD.items():
                kubernetes.use_field_path_as_env(task, variable, field)
        kubernetes.set_image_pull_policy(task, self.cluster.pull_policy)
        if self.cluster.pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(self.cluster.pull_secrets))
        return task

    def _asked(self, role: Role) -> Resources:
        asked = self.cluster.roles.get(role, Resources())
        if (launcher := self._launcher(role)) is None:
            return asked
        limit = launcher.timeout_hours + LEAVING_HOURS
        return LAUNCHER.model_copy(update={"variant": asked.variant, "timeout_hours": limit})

    def _launcher(self, role: Role) -> TrainJobLauncher | None:
        return self.launcher if role == "trainer" else None

    def variables(self) -> dict[str, str]:
        """Environment variables of every container; nothing secret."""
        bucket, state = self.cluster.bucket, self.cluster.state
        named = {
            "SENTINEL_PROFILE": self.profile,
            "SENTINEL_REMOTE": bucket.url,
            "SENTINEL_REMOTE_ENDPOINT": bucket.endpoint,
            "SENTINEL_REMOTE_REGION": bucket.region,
            "SENTINEL_STATE": state.mount if state else None,
            "SENTINEL_SECRETS": " ".join(
                f"{name}={secret.name}/{key}" for secret in self.cluster.secrets for name, key in secret.env.items()
            ),
        }
        return {**{name: value for name, value in named.items() if value}, **self.cluster.environment}

    def _environment(self, task: Any) -> None:
        for name, value in self.variables().items():
            task.set_env_variable(name, value)
        # Optional, as Kubernetes would start no container without it, and say so nowhere: `Place.here` says it at once.
        for secret in self.cluster.secrets:
            names = {key: name for name, key in secret.env.items()}
            kubernetes.use_secret_as_env(task, secret.name, names, optional=True)

    def _resources(self, task: Any, resources: Resources) -> None:
        if resources.cpu:
            task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu)
        if resources.memory:
            task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
        if resources.gpus:
            task.set_accelerator_type(resources.gpu_resource).set_accelerator_limit(resources.gpus)
        if resources.timeout_hours:
            kubernetes.set_timeout(task, resources.timeout_hours * 3600)

    def _nodes(self, task: Any, resources: Resources) -> None:
        for label, value in resources.node_selector.items():
            kubernetes.add_node_selector(task, label, value)
        for toleration in resources.tolerations:
            kubernetes.add_toleration(
                task, toleration.key, toleration.operator, value=toleration.value, effect=toleration.effect
            )

    def _volumes(self, task: Any, resources: Resources) -> None:
        kubernetes.empty_dir_mount(task, "scratch", SCRATCH)
        if resources.shm:
            kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=resources.shm)
        if self.cluster.state:
            kubernetes.mount_pvc(task, self.cluster.state.claim, self.cluster.state.mount)

    def _retries(self, task: Any) -> None:
        retries = self.cluster.retries
        task.set_retry(
            retries.limit,
            backoff_duration=f"{retries.backoff_seconds}s",
            backoff_factor=retries.factor,
            backoff_max_duration=f"{retries.longest_seconds}s",
        )
