"""TrainJobs of Kubeflow Trainer v2, through the Kubeflow SDK.

    jobs = TrainJobs.connect("kubeflow", "sentinel-torch")
    follow(jobs, order, seconds)

The SDK creates, reads logs and waits; suspension and ownership, which it has not, are patches of a field. Nodes look
as the TrainingRuntime of charts/sentinel says; a TrainJob adds image, number of nodes, resources and environment.

A TrainJob is owned by the pod that follows it: when that pod is deleted (its run is, or its node is drained),
Kubernetes removes the TrainJob. The next attempt makes it anew, and the training goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sentinel.errors import StageError
from sentinel.launch.follow import Order, State
from sentinel.pod.node import ORDER

POD = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid", "POD_NAMESPACE": "metadata.namespace"}
"""Environment variables of the container that launches -> fields of its pod."""
ATTEMPTS, PAUSE = 5, 2.0
"""How often an API that does not answer is asked again, and the first pause in seconds; each is twice the last."""
PATIENCE = 60.0
"""Seconds after which a single request counts as not answered."""


class Owner(NamedTuple):
    """The pod that this is."""

    name: str
    uid: str

    @classmethod
    def here(cls, namespace: str, variables: Mapping[str, str] = os.environ) -> Owner | None:
        """Our pod, if it can own something in this namespace; what another namespace owns is removed at once."""
        name, uid, home = (variables.get(variable, "") for variable in POD)
        return cls(name, uid) if name and uid and home == namespace else None

    @property
    def reference(self) -> dict[str, str]:
        """As Kubernetes writes it; the owner's own deletion waits for nothing."""
        return {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}


class TrainJobs:
    """The TrainJobs of a namespace (`follow.Jobs`)."""

    def __init__(self, client: Any, runtime: str, pause: float = PAUSE) -> None:
        from kubeflow.trainer.constants import constants

        self._client, self._runtime, self._words = client, runtime, constants
        self._pause = pause
        self._api, self._namespace = client.backend.custom_api, client.backend.namespace
        self._owner = Owner.here(self._namespace)

    @classmethod
    def connect(cls, namespace: str, runtime: str, configuration: Any = None) -> TrainJobs:
        """The TrainJobs of this cluster: the pod's account, the kubectl context, or what a configuration names."""
        logging.getLogger("kubeflow").setLevel(logging.ERROR)  # it warns where it may not read Trainer's version
        with _quiet(), talking("reach the cluster"):
            from kubeflow.common.types import KubernetesBackendConfig
            from kubeflow.trainer import TrainerClient

            config = KubernetesBackendConfig(namespace=namespace, client_configuration=configuration)
            return cls(TrainerClient(config), runtime)

    def state(self, name: str) -> State:
        """How the TrainJob is (`follow.Jobs`)."""
        with talking(f"look at TrainJob {name}"):
            try:
                found = self._get(name)
            except Exception as error:
                if getattr(error, "status", None) == 404:
                    return State.absent
                raise
        conditions = found.get("status", {}).get("conditions", [])
        true = {condition["type"] for condition in conditions if condition["status"] == "True"}
        for word, state in (
            (self._words.TRAINJOB_FAILED, State.failed),
            (self._words.TRAINJOB_COMPLETE, State.complete),
        ):
            if word in true:
                return state
        return State.suspended if found["spec"].get("suspend") else State.active

    def create(self, order: Order) -> None:
        """Start a TrainJob (`follow.Jobs`)."""
        with _quiet():
            from kubeflow.trainer import CustomTrainerContainer
            from kubeflow.trainer.options import ActiveDeadlineSeconds, Labels, Name
        trainer = CustomTrainerContainer(
            image=order.image,
            num_nodes=order.nodes,
            resources_per_node=order.resources or None,
            env=order.environment,
        )
        options = [Name(order.name), Labels(order.labels)]
        options += [ActiveDeadlineSeconds(order.seconds)] if order.seconds else []
        with talking(f"create TrainJob {order.name}"):
            runtime = self._client.get_runtime(self._runtime)
            try:
                self._client.train(runtime=runtime, trainer=trainer, options=options)
            except RuntimeError as error:
                if getattr(error.__cause__, "status", None) != 409:
                    raise

    def claim(self, order: Order) -> None:
        """Have it go when our pod goes (`follow.Jobs`)."""
        with talking(f"look at TrainJob {order.name}"):
            found = self._get(order.name)
        variables = {each["name"]: each.get("value") for each in found["spec"].get("trainer", {}).get("env", ())}
        if variables.get(ORDER) != order.environment.get(ORDER):
            raise StageError(
                f"TrainJob {order.name} is there already, and was not made for this stage of this run: its {ORDER} is "
                f"{variables.get(ORDER)!r}, expected {order.environment.get(ORDER)!r}\n"
                f"    look whose it is, and remove it: kubectl delete trainjob {order.name} -n {self._namespace}"
            )
        if self._owner:
            self._patch(order.name, "claim", {"metadata": {"ownerReferences": [self._owner.reference]}})

    def suspend(self, name: str, suspended: bool) -> None:
        """Take the nodes away, or let it have some (`follow.Jobs`)."""
        self._patch(name, "suspend" if suspended else "resume", {"spec": {"suspend": suspended}})

    def delete(self, name: str) -> None:
        """Remove the TrainJob and its pods (`follow.Jobs`)."""
        with talking(f"delete TrainJob {name}"):
            try:
                self._client.delete_job(name)
            except RuntimeError as error:
                if getattr(error.__cause__, "status", None) != 404:
                    raise

    def logs(self, name: str) -> Iterator[str]:
        """Lines of the first node (`follow.Jobs`)."""
        with talking(f"read the log of TrainJob {name}"):
            yield from self._client.get_job_logs(name, follow=True)

    def wait(self, name: str, seconds: float) -> State:
        """How it is, at once when it has ended (`follow.Jobs`); short outages of the API are sat out."""
        ends = {self._words.TRAINJOB_COMPLETE, self._words.TRAINJOB_FAILED}
        limit = max(2, round(seconds))
        try:
            self._client.wait_for_job_status(name, ends, timeout=limit, polling_interval=max(1, limit // 3))
        except TimeoutError:
            pass
        except RuntimeError:  # at once: it may not list pods, or the API does not answer
            time.sleep(self._pause)
        for attempt in range(ATTEMPTS):
            with suppress(StageError):
                return self.state(name)
            time.sleep(self._pause * 2**attempt)
        return self.state(name)

    def _get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._api.get_namespaced_custom_object(*self._place, name, _request_timeout=PATIENCE)
        return found

    def _patch(self, name: str, what: str, change: dict[str, Any]) -> None:
        """Change a field; a TrainJob that is not there needs none."""
        with talking(f"{what} TrainJob {name}"):
            try:
                self._api.patch_namespaced_custom_object(*self._place, name, change, _request_timeout=PATIENCE)
            except Exception as error:
                if getattr(error, "status", None) != 404:
                    raise

    @property
    def _place(self) -> tuple[str, str, str, str]:
        return self._words.GROUP, self._words.VERSION, self._namespace, self._words.TRAINJOB_PLURAL


@contextmanager
def _quiet() -> Iterator[None]:
    """The SDK warns of its own use of pydantic when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextmanager
def talking(what: str) -> Iterator[None]:
    """Errors of the API and of the network, as one of ours."""
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (ApiException, ConfigException, HTTPError, OSError, RuntimeError) as error:
        cause = error.__cause__ or error
        status = getattr(cause, "status", None)
        reason = f"HTTP {status}: {getattr(cause, 'reason', '')}" if status else f"{type(cause).__name__}: {cause}"
        raise StageError(
            f"could not {what}: {reason}\n"
            "    Kubeflow Trainer v2 and charts/sentinel with `training.enabled` are needed (`sentinel doctor`)"
        ) from error
