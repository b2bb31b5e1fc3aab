"""Launching without a cluster: profiles, what a job is to be, and where a node sits."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sentinel.errors import SpecError, StageError
from sentinel.launch.follow import QUEUE, Jobs, Order, State, follow
from sentinel.launch.main import job_name, ordered
from sentinel.launch.trainjobs import POD, Owner
from sentinel.pipelines.place import LEAVING_HOURS
from sentinel.plan import Stage, plan
from sentinel.pod.baton import Baton
from sentinel.pod.node import Seat, settle
from sentinel.spec.launcher import TrainJobLauncher
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
    assert "secret" not in str(order) and order.seconds == 5 * 3600
    assert order.labels == {
        "sentinel.dev/role": "trainer",
        "sentinel.dev/stage": "retail-train-02",
        "kueue.x-k8s.io/queue-name": "agents",
    }


def test_names_of_jobs_are_short_and_differ() -> None:
    stages = ("retail-train-01", "a" * 60, "a" * 60 + "b", "3-tries-train-01")
    names = {job_name(stage, job) for stage in stages for job in ("1", "2")}
    assert len(names) == 8 and all(len(name) <= 40 for name in names)
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) for name in names), "RFC 1035: no digit first"
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
    spec, placed = documents(compiled(submission(tmp_path, "retail-cpu", "nodes"), tmp_path))
    executors = spec["deploymentSpec"]["executors"]
    trainers = [name for name, each in executors.items() if "trainer" in each["container"]["image"]]
    asked = [executors[name]["container"]["resources"] for name in trainers]
    assert asked and all(("accelerator" in each) is gpus for each in asked)
    platform = placed["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    hours = 9 if gpus else TrainJobLauncher(type="trainjob").timeout_hours + LEAVING_HOURS
    assert {int(platform[name]["activeDeadlineSeconds"]) for name in trainers} == {hours * 3600}
    fields = {each["name"]: each["fieldPath"] for each in platform[trainers[0]].get("fieldPathAsEnv", ())}
    assert fields == ({} if gpus else POD), "it must know the pod that is to own the TrainJob"
    others = [each for name, each in platform.items() if name not in trainers]
    assert others and not any("fieldPathAsEnv" in each for each in others)


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


class Fake:
    """Jobs in memory: they are as a test says, and note what is done to them."""

    def __init__(self, *states: State) -> None:
        self._states = list(states)
        """What the next looks find; the last one stays."""
        self.done: list[str] = []
        self.suspended = threading.Event()
        self.in_time: list[bool] = []

    def state(self, name: str) -> State:
        return self._states.pop(0) if len(self._states) > 1 else self._states[0]

    def wait(self, name: str, seconds: float) -> State:
        return self.state(name)

    def create(self, order: Order) -> None:
        self.done.append("create")

    def claim(self, order: Order) -> None:
        self.done.append("claim")

    def suspend(self, name: str, suspended: bool) -> None:
        self.done.append("suspend" if suspended else "resume")
        self.suspended.set()

    def delete(self, name: str) -> None:
        self.done.append("delete")

    def logs(self, name: str) -> Iterator[str]:
        yield "a line"
        self.in_time.append(self.suspended.wait(5.0))


class Told(Fake):
    """We are told to end while it runs, twice."""

    def wait(self, name: str, seconds: float) -> State:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        return State.active

    def suspend(self, name: str, suspended: bool) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        super().suspend(name, suspended)


PLAIN = Order("a", "b", 1, {}, {})
QUEUED = Order("a", "b", 1, {}, {}, {QUEUE: "agents"})


def test_a_job_that_vanishes_is_no_success() -> None:
    jobs: Jobs = Fake(State.absent)
    with pytest.raises(StageError, match="was deleted by somebody"):
        follow(jobs, PLAIN, seconds=10.0, look=0.1)


def test_nodes_are_given_back_before_anything_else_and_a_second_signal_changes_nothing() -> None:
    """Argo's executor is gone within a second of the signal; the rest of the log is not waited for."""
    jobs = Told(State.active)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        follow(jobs, PLAIN, seconds=60.0, look=60.0)
    assert left.value.code == 143 and jobs.done == ["claim", "suspend"]
    assert signal.getsignal(signal.SIGTERM) is before
    assert False not in jobs.in_time


def test_a_job_in_a_queue_is_deleted_as_kueue_would_start_a_suspended_one_again() -> None:
    jobs = Told(State.active)
    with pytest.raises(SystemExit):
        follow(jobs, QUEUED, seconds=60.0, look=0.1)
    assert jobs.done == ["claim", "delete"]
    late = Fake(State.active)
    with pytest.raises(StageError, match="was deleted; try again, and it goes on"):
        follow(late, QUEUED, seconds=0.0, look=0.1)
    assert late.done == ["claim", "delete"]


def test_a_job_that_waits_in_a_queue_is_left_waiting() -> None:
    jobs = Fake(State.suspended, State.suspended, State.active, State.complete)
    follow(jobs, QUEUED, seconds=60.0, look=0.1)
    assert jobs.done == ["claim"]
    ours = Fake(State.suspended, State.active, State.complete)
    follow(ours, PLAIN, seconds=60.0, look=0.1)
    assert ours.done == ["claim", "resume"]


def test_a_failed_job_that_does_not_go_away_is_not_waited_for_for_ever() -> None:
    jobs = Fake(State.failed)
    with pytest.raises(StageError, match="was deleted and does not go"):
        follow(jobs, PLAIN, seconds=0.0, look=0.01)
    assert jobs.done == ["claim", "delete"]


class Logs(Fake):
    """Logs of one attempt after the other."""

    def __init__(self, *logs: tuple[str, ...]) -> None:
        super().__init__(State.absent, *[State.active] * 8, State.complete)
        self._logs = list(logs)

    def logs(self, name: str) -> Iterator[str]:
        if not self._logs:
            raise StageError("it has not begun")
        yield from self._logs.pop(0) if len(self._logs) > 1 else self._logs[0]

    def wait(self, name: str, seconds: float) -> State:
        time.sleep(0.1)
        return super().wait(name, seconds)


@pytest.mark.parametrize(
    ("logs", "shown"),
    [
        ((("a", "b", "c"),), "a b c"),
        ((("a", "b"), ("a", "b", "c")), "a b c"),
        ((("a", "b", "c"), ("a", "x", "c")), "a b c x c"),
        ((), ""),
    ],
    ids=["read over and over", "broken off", "another attempt's", "none"],
)
def test_no_line_of_a_log_is_shown_twice(
    logs: tuple[tuple[str, ...], ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(Logs(*logs), PLAIN, seconds=60.0, look=0.05)
    assert capsys.readouterr().out.split() == shown.split()


class Quick(Fake):
    """It has a log only once it is over."""

    over = False

    def wait(self, name: str, seconds: float) -> State:
        self.over = True
        return State.failed

    def logs(self, name: str) -> Iterator[str]:
        if self.over:
            yield "no such file"


def test_the_log_of_a_job_that_ends_at_once_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageError, match="its log stands above"):
        follow(Quick(State.absent), PLAIN, seconds=60.0, look=2.0)
    assert "no such file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "owner"),
    [
        ({"POD_NAME": "p", "POD_UID": "u", "POD_NAMESPACE": "team"}, ("p", "u")),
        ({"POD_NAME": "p", "POD_UID": "u", "POD_NAMESPACE": "other"}, None),
        ({"POD_NAME": "p", "POD_NAMESPACE": "team"}, None),
        ({}, None),
    ],
)
def test_a_pod_owns_only_what_is_in_its_namespace(variables: dict[str, str], owner: tuple[str, str] | None) -> None:
    """An owner in another namespace does not exist for Kubernetes, which removes what is left without one."""
    assert Owner.here("team", variables) == owner


def test_containers_of_the_pipeline_carry_their_role(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    path = compiled(submission(root, "retail-cpu", "kind"), tmp_path)
    platform = documents(path)[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    roles = {each["podMetadata"]["labels"]["sentinel.dev/role"] for each in platform.values()}
    assert roles == {"controller", "proposer", "rollout", "trainer", "evaluator"} and containers(path)
