"""`sentinel doctor`: what it finds, and that it says how to mend it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sentinel.errors import StageError
from sentinel.pipelines.doctor import bucket, examine, kubernetes
from sentinel.pipelines.findings import Finding, State
from sentinel.pipelines.installed import accelerated, installed
from sentinel.spec.cluster import Bucket, Claim, Cluster, Resources, Secret
from sentinel.spec.launcher import TrainJobLauncher
from sentinel.spec.profile import DeepSpeedTrainer, Endpoint, ProfileSpec, load_profile


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


# --- what charts/sentinel has installed ---

PLACE = ProfileSpec(
    device="cuda",
    trainer=DeepSpeedTrainer(type="deepspeed", launcher=TrainJobLauncher(type="trainjob")),
    endpoints={"user": Endpoint(url="http://sentinel-user:8000/v1"), "proposer": Endpoint(url="https://a.invalid/v1")},
    cluster=CLUSTER,
)


def server(
    image: str = "vllm/vllm-openai:v1", gpus: int = 4, device: str = "cuda", ready: int | None = 2, replicas: int = 2
) -> Any:
    """A Deployment as the Kubernetes client shows it."""
    limits = {"cpu": "8", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    container = SimpleNamespace(image=image, resources=SimpleNamespace(limits=limits))
    return SimpleNamespace(
        metadata=SimpleNamespace(name="sentinel-qwen3", labels={"sentinel.dev/device": device}),
        spec=SimpleNamespace(replicas=replicas, template=SimpleNamespace(spec=SimpleNamespace(containers=[container]))),
        status=SimpleNamespace(ready_replicas=ready),
    )


class Chart:
    """The calls of three Kubernetes APIs that the doctor makes."""

    def __init__(self, *servers: Any, services: tuple[str, ...] = (), runtimes: tuple[str, ...] = ()) -> None:
        self._servers, self._services, self._runtimes = servers, services, runtimes

    def read_namespaced_service(self, name: str, namespace: str) -> None:
        if name not in self._services:
            raise MissingObject

    def list_namespaced_deployment(self, namespace: str, label_selector: str) -> Any:
        assert label_selector == "app.kubernetes.io/part-of=sentinel"
        return SimpleNamespace(items=list(self._servers))

    def get_namespaced_custom_object(self, group: str, version: str, namespace: str, plural: str, name: str) -> None:
        if name not in self._runtimes:
            raise MissingObject

    def findings(self) -> list[Finding]:
        return list(installed(PLACE, self, self, self))


def test_a_chart_that_serves_is_ok() -> None:
    found = Chart(server(), services=("sentinel-user",), runtimes=("sentinel-torch",)).findings()
    assert [(each.name, each.state) for each in found] == [
        ("service", State.ok),
        ("model server", State.ok),
        ("training runtime", State.ok),
    ]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (server(image="vllm/vllm-openai:latest"), "runs vllm/vllm-openai:latest: another image every day"),
        (server(gpus=0), "sentinel-qwen3 asks for no GPU"),
        (server(ready=None), "0 of 2 replicas are ready"),
        (server(replicas=0, ready=None), "0 of 0 replicas are ready"),
    ],
)
def test_a_model_server_that_cannot_serve_is_named(made: Any, message: str) -> None:
    (finding,) = (each for each in Chart(made).findings() if each.name == "model server")
    assert finding.state is State.broken and message in finding.found and finding.mend


def test_a_server_for_cpus_needs_no_gpu() -> None:
    (finding,) = (each for each in Chart(server(gpus=0, device="cpu")).findings() if each.name == "model server")
    assert finding.state is State.ok


def test_missing_services_and_runtimes_come_with_what_makes_them() -> None:
    service, runtime = Chart().findings()
    assert (service.found, runtime.found) == ("sentinel-user does not exist", "sentinel-torch does not exist")
    assert "charts/sentinel" in service.mend and "Kubeflow Trainer v2" in runtime.mend


def test_what_computes_on_cuda_must_ask_for_gpus() -> None:
    assert {each.name for each in accelerated(PLACE)} == {"proposer", "evaluator"}
    assert list(accelerated(PLACE.model_copy(update={"device": "cpu"}))) == []


@pytest.mark.parametrize("name", ["kind", "gpu"])
def test_shipped_profiles_ask_for_the_gpus_that_they_use(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert list(accelerated(load_profile(name).spec)) == []


def test_the_tag_latest_is_named_before_anything_is_submitted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    path = tmp_path / "mine.yaml"
    path.write_text((root / "experiments/profiles/kind.yaml").read_text().replace("tag: dev", "tag: latest"))
    monkeypatch.setattr("sentinel.pipelines.doctor.endpoint", lambda cluster: "not asked")
    found = {each.name: each for each in examine(str(path), lambda: Api({}, [], []))}
    assert found["images"].state is State.broken and "`latest`" in found["images"].found
    assert found["secret"].state is State.broken and "kubectl create secret" in found["secret"].mend
