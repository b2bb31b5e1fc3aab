"""`sentinel doctor`: what it finds, and that it says how to mend it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sentinel.errors import StageError
from sentinel.pipelines.doctor import Finding, State, bucket, kubernetes
from sentinel.spec.cluster import Bucket, Claim, Cluster, Resources, Secret


class MissingObject(Exception):
    """What the Kubernetes client raises for an object that is not there."""

    status = 404


class Api:
    """The calls of `kubernetes.client.CoreV1Api` that the doctor makes, over plain data."""

    def __init__(self, secrets: dict[str, list[str]], claims: list[str], gpus: list[int]) -> None:
        self._secrets, self._claims, self._gpus = secrets, claims, gpus

    def list_node(self) -> Any:
        return SimpleNamespace(
            items=[SimpleNamespace(status=SimpleNamespace(allocatable={"nvidia.com/gpu": str(n)})) for n in self._gpus]
        )

    def read_namespaced_secret(self, name: str, namespace: str) -> Any:
        if name not in self._secrets:
            raise MissingObject
        return SimpleNamespace(data=dict.fromkeys(self._secrets[name], "value"))

    def read_namespaced_persistent_volume_claim(self, name: str, namespace: str) -> Any:
        if name not in self._claims:
            raise MissingObject
        return SimpleNamespace(status=SimpleNamespace(phase="Bound"))


CLUSTER = Cluster(
    bucket=Bucket(url="s3://b"),
    secrets=(Secret(name="s3", env={"AWS_ACCESS_KEY_ID": "accesskey", "AWS_SECRET_ACCESS_KEY": "secretkey"}),),
    state=Claim(claim="state"),
    roles={"trainer": Resources(gpus=4), "rollout": Resources(gpus=2)},
)


def found(core: Callable[[], Any]) -> dict[str, Finding]:
    return {finding.name: finding for finding in kubernetes(CLUSTER, core)}


def test_a_complete_cluster_is_ok() -> None:
    api = Api({"s3": ["accesskey", "secretkey", "more"]}, ["state"], [0, 8])
    assert {name: finding.state for name, finding in found(lambda: api).items()} == {
        "secret": State.ok,
        "volume": State.ok,
        "nvidia.com/gpu": State.ok,
    }


def test_what_is_missing_comes_with_the_command_that_makes_it() -> None:
    findings = found(lambda: Api({}, [], [2]))
    assert {finding.state for finding in findings.values()} == {State.broken}
    assert findings["secret"].mend == (
        "kubectl create secret generic s3 -n kubeflow --from-literal=accesskey=… --from-literal=secretkey=…"
    )
    assert findings["nvidia.com/gpu"].found == "2 on the largest node, 4 asked for"
    assert "charts/sentinel" in findings["volume"].mend


def test_a_secret_without_a_key_is_named_and_no_value_is_shown() -> None:
    secret = found(lambda: Api({"s3": ["accesskey"]}, ["state"], [8]))["secret"]
    assert (secret.state, secret.found) == (State.broken, "s3 has no key secretkey")
    assert "value" not in secret.found + secret.mend


def test_without_a_kubernetes_api_nothing_is_claimed() -> None:
    def unreachable() -> Any:
        raise ConnectionError

    (finding,) = kubernetes(CLUSTER, unreachable)
    assert finding.state is State.unknown and "were not looked at" in finding.found


def test_the_bucket_is_written_as_a_pod_would(tmp_path: Path) -> None:
    folder = tmp_path / "bucket"
    folder.mkdir()
    assert bucket(Cluster(bucket=Bucket(url=str(folder)))) == f"{folder} can be written"
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="the bucket cannot be written"):
        bucket(Cluster(bucket=Bucket(url=str(tmp_path / "file"))))
