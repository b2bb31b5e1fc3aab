"""Launching without a cluster: profiles, what a job is to be, and where a node sits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sentinel.errors import SpecError, StageError
from sentinel.launch.follow import Jobs, Order, State, follow
from sentinel.launch.main import job_name, ordered
from sentinel.plan import Stage, plan
from sentinel.pod.baton import Baton
from sentinel.pod.node import Seat, settle
from sentinel.spec.load import load
from sentinel.spec.profile import DeepSpeedTrainer, ProfileSpec, load_profile
from tests.unit.pipeline_ir import compiled, containers, documents, submission

TRAINJOB = """
apiVersion: sentinel.dev/v1alpha1
kind: Profile
metadata: {name: nodes}
spec:
  threads: 4
  trainer: {type: deepspeed, stage: 2, ranks: 2, nodes: 3, launcher: {type: trainjob, queue: agents, timeout_hours: 5}}
  cluster:
    images: {type: tagged, tag: dev}
    bucket: {url: "s3://b"}
    state: {claim: state}
    environment: {NCCL_DEBUG: WARN}
    roles: {trainer: {cpu: "32", memory: 256Gi, gpus: 8, shm: 64Gi, variant: cuda, timeout_hours: 9}}
"""


def profile(folder: Path, *changes: tuple[str, str]) -> ProfileSpec:
    text = TRAINJOB
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "nodes.yaml"
    path.write_text(text)
    return load_profile(path).spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("nodes: 3,", "nodes: 3, rendezvous: 'a:1',"), "the nodes of a TrainJob meet where it tells them to"),
        (("    state: {claim: state}\n", ""), "all 3 nodes read the checkpoints; give them a volume"),
        (("launcher: {type: trainjob, queue: agents, timeout_hours: 5}", "launcher: {type: pod}"), "or a launcher"),
        (("type: trainjob, queue", "type: trainjobs, queue"), "trainjob"),
        (("timeout_hours: 5", "timeout: 5"), "did you mean 'timeout_hours'?"),
    ],
)
def test_profiles_that_cannot_work_are_refused(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message.replace("?", r"\?")):
        profile(tmp_path, change)


def test_a_trainjob_needs_a_cluster(tmp_path: Path) -> None:
    text = TRAINJOB.partition("  cluster:")[0]
    (tmp_path / "nodes.yaml").write_text(text)
    with pytest.raises(SpecError, match="a TrainJob needs a cluster"):
        load_profile(tmp_path / "nodes.yaml")


def test_one_node_needs_no_shared_volume(tmp_path: Path) -> None:
    place = profile(tmp_path, ("nodes: 3,", ""), ("    state: {claim: state}\n", ""))
    assert place.launches is not None and place.launches.runtime == "sentinel-torch"


@pytest.fixture
def stage(root: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(root)
    return plan(load(Path("experiments/retail.yaml")).experiment).find("train", "runs/retail/02")


def test_a_job_is_what_profile_and_run_say(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_REMOTE", "s3://b")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    place = profile(tmp_path)
    assert place.launches is not None
    baton = Baton(spec="e.yaml", files={}, code=False, parameters={"image_trainer": "trainer:dev"})
    order = ordered(stage, "8d0c", baton, place, place.launches)
    assert order == ordered(stage, "8d0c", baton, place, place.launches), "a second attempt orders the same"
    assert (order.image, order.nodes) == ("trainer:dev", 3)
    assert order.resources == {"cpu": "32", "memory": "256Gi", "nvidia.com/gpu": "8"}
    assert order.environment["SENTINEL_REMOTE"] == "s3://b" and order.environment["NCCL_DEBUG"] == "WARN"
    assert order.environment["SENTINEL_ORDER"] == (
        '{"job": "8d0c", "kind": "train", "run": "runs/retail/02", "stage": "retail-train-02"}'
    )
    assert "secret" not in str(order)
    assert order.labels == {
        "sentinel.dev/role": "trainer",
        "sentinel.dev/stage": "retail-train-02",
        "kueue.x-k8s.io/queue-name": "agents",
    }


def test_names_of_jobs_are_short_and_differ() -> None:
    names = {job_name(stage, job) for stage in ("retail-train-01", "a" * 60, "a" * 60 + "b") for job in ("1", "2")}
    assert len(names) == 6 and all(len(name) <= 39 for name in names)
    assert job_name("retail-train-01", "1").startswith("retail-train-01-")


@pytest.mark.parametrize(("launcher", "gpus"), [("trainjob", False), ("pod", True)])
def test_the_container_that_launches_asks_for_no_gpu(
    launcher: str, gpus: bool, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold GPUs for as long as it waits for others to get some."""
    shutil.copytree(root / "experiments", tmp_path / "experiments")
    text = TRAINJOB.replace("type: trainjob, queue: agents, timeout_hours: 5", f"type: {launcher}")
    (tmp_path / "experiments/profiles/nodes.yaml").write_text(text.replace("nodes: 3", "nodes: 1"))
    monkeypatch.chdir(tmp_path)
    spec = documents(compiled(submission(tmp_path, "retail-cpu", "nodes"), tmp_path))[0]
    executors = spec["deploymentSpec"]["executors"].values()
    asked = [each["container"]["resources"] for each in executors if "trainer" in each["container"]["image"]]
    assert asked and all(("accelerator" in each) is gpus for each in asked)


@pytest.mark.parametrize("missing", ["PET_NODE_RANK", "PET_NNODES", "PET_MASTER_ADDR", "PET_MASTER_PORT"])
def test_a_seat_is_read_from_what_kubeflow_trainer_sets(missing: str) -> None:
    told = {"PET_NODE_RANK": "1", "PET_NNODES": "2", "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400"}
    assert Seat.read(told) == (1, 2, "job-node-0-0.job:29400")
    with pytest.raises(StageError, match=f"no node of a TrainJob.*{missing}"):
        Seat.read({name: value for name, value in told.items() if name != missing})


def test_the_stage_of_the_first_node_meets_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = tmp_path / "experiments/profiles"
    profiles.mkdir(parents=True)
    (profiles / "nodes.yaml").write_text(TRAINJOB)
    monkeypatch.setenv("SENTINEL_PROFILE", "nodes")
    settle(tmp_path, Seat(0, 2, "job-node-0-0.job:29400"))
    monkeypatch.chdir(tmp_path)
    place = load_profile().spec
    assert isinstance(place.trainer, DeepSpeedTrainer) and place.launches is None
    assert (place.trainer.rendezvous, place.trainer.nodes, place.trainer.ranks) == ("job-node-0-0.job:29400", 2, 2)
    assert place.threads == 4 and place.cluster is not None and place.cluster.state is not None


def test_the_runtime_of_the_chart_is_the_one_of_the_profile(root: Path, tmp_path: Path) -> None:
    values = YAML(typ="safe", pure=True).load(root / "charts/sentinel/values.yaml")
    launcher = profile(tmp_path).launches
    assert launcher is not None and launcher.runtime == values["training"]["runtime"]


class Gone:
    """Jobs that vanish once they are begun."""

    def __init__(self) -> None:
        self.made: list[Order] = []

    def state(self, name: str) -> State:
        return State.absent

    def create(self, order: Order) -> None:
        self.made.append(order)

    def wait(self, name: str, seconds: float) -> State:
        return State.absent

    def logs(self, name: str) -> Iterator[str]:
        yield from ()

    def suspend(self, name: str, suspended: bool) -> None:
        raise AssertionError

    def delete(self, name: str) -> None:
        raise AssertionError


def test_a_job_that_vanishes_is_no_success() -> None:
    jobs: Jobs = Gone()
    with pytest.raises(StageError, match="was deleted by somebody"):
        follow(jobs, Order("a", "b", 1, {}, {}), seconds=10.0, look=0.1)


def test_containers_of_the_pipeline_carry_their_role(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    path = compiled(submission(root, "retail-cpu", "kind"), tmp_path)
    platform = documents(path)[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    roles = {each["podMetadata"]["labels"]["sentinel.dev/role"] for each in platform.values()}
    assert roles == {"controller", "proposer", "rollout", "trainer", "evaluator"} and containers(path)
