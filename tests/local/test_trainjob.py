"""The train stage on two nodes of a TrainJob: the launcher here, the nodes by the SDK's local backend, one bucket.

The project has run the smallest experiment on two ranks of its own; the bucket gets all of it but the training, which
the TrainJob makes again, byte for byte. The nodes are `python -m sentinel.pod.node`, as in a cluster. So small a policy
learns nothing there; tests/system/test_trainjob.py holds weights that change against torchrun's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

pytest.importorskip("kubeflow", reason="needs the extra trainjob")

from sentinel.artifacts import write_json
from sentinel.fingerprint import code_hash
from sentinel.launch import main
from sentinel.launch.follow import State
from sentinel.pipelines.project import read_project
from sentinel.pod.baton import Baton
from sentinel.pod.bus import noted, open_bucket
from sentinel.pod.folder import Place
from tests.e2e.test_dvc import FILE, SPEC, Project
from tests.system.local_jobs import LocalJobs

STAGE, RUN, JOB = "small-train-01", "runs/small/01", "8d0c6f21"
LATER = {STAGE, "small-evaluate-01", "small-report"}
PROFILE = """
apiVersion: sentinel.dev/v1alpha1
kind: Profile
metadata: {{name: {name}}}
spec:
  threads: 2
  trainer: {trainer}
  cluster:
    bucket: {{url: "{bucket}"}}
    state: {{claim: state}}
    roles: {{trainer: {{cpu: "2", memory: 4Gi}}}}
"""
TRAINERS = {
    "ranks": "{type: deepspeed, stage: 0, ranks: 2}",
    "nodes": "{type: deepspeed, stage: 0, ranks: 1, nodes: 2, launcher: {type: trainjob, queue: agents}}",
}
pytestmark = [pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


class Trained(Project):
    """A project in which the experiment has run, and a bucket that has all of it but the training."""

    def __init__(self, folder: Path, root: Path) -> None:
        super().__init__(folder, root)
        self.bucket, self.state = folder.parent / "bucket", folder.parent / "state"
        self.bucket.mkdir()
        for name, trainer in TRAINERS.items():
            text = PROFILE.format(name=name, trainer=trainer, bucket=self.bucket)
            (folder / f"experiments/profiles/{name}.yaml").write_text(text)
        self.call("sentinel.cli", "run", SPEC, "--profile", "ranks")
        self.call("dvc", "remote", "add", "--default", "bus", str(self.bucket))
        self.call("dvc", "push", *(f"{FILE}:{name}" for name in self.entries if name not in LATER))

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONWARNINGS": "ignore"}

    @property
    def entries(self) -> dict[str, Any]:
        lock = YAML(typ="safe", pure=True).load(self.folder / FILE.replace(".yaml", ".lock"))
        found: dict[str, Any] = lock["stages"]
        return found

    def baton(self) -> Baton:
        """What the container of the training is handed."""
        here = Path.cwd()
        os.chdir(self.folder)
        try:
            found = read_project(Path(SPEC), "nodes").baton
        finally:
            os.chdir(here)
        done = {name: entry for name, entry in self.entries.items() if name not in LATER}
        parameters = {"image_trainer": "sentinel-trainer:dev", "code": code_hash()}
        return found.model_copy(update={"stages": done, "parameters": parameters})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Trained:
    return Trained(tmp_path_factory.mktemp("trainjob") / "project", root)


@pytest.fixture
def container(project: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of the launcher's container; a folder for its artifacts."""
    variables = {
        "SENTINEL_PROFILE": "nodes",
        "SENTINEL_REMOTE": str(project.bucket),
        "SENTINEL_STATE": str(project.state),
    }
    for name, value in {**project.environment, **variables}.items():
        monkeypatch.setenv(name, value)
    write_json(tmp_path / "before.json", project.baton())
    return tmp_path


def launch(folder: Path, job: str, connect: Callable[..., Any]) -> Any:
    """What the component `train` calls; returns its output artifact."""
    before: Any = SimpleNamespace(path=str(folder / "before.json"), metadata={})
    output: Any = SimpleNamespace(path=str(folder / "after.json"), metadata={})
    main("train", RUN, job, [before], output, connect)
    return output


def test_two_nodes_make_the_bytes_of_two_ranks(project: Trained, container: Path) -> None:
    jobs = LocalJobs(["-m", "sentinel.pod.node"], ["-m", "sentinel.pod.node"])
    output = launch(container, JOB, lambda cluster, launcher: jobs)
    after = Baton.model_validate_json(Path(output.path).read_text())
    expected = {out["path"]: out["md5"] for out in project.entries[STAGE]["outs"]}
    assert {out["path"]: out["md5"] for out in after.stages[STAGE]["outs"]} == expected
    assert output.metadata["stage"] == STAGE and output.metadata["trainjob"].startswith("small-train-01-")
    (order,) = jobs.created
    assert (order.nodes, order.image) == (2, "sentinel-trainer:dev")
    assert order.resources == {"cpu": "2", "memory": "4Gi"}
    assert order.labels["kueue.x-k8s.io/queue-name"] == "agents"
    assert jobs.state(order.name) is State.absent, "a job that is done is removed"


def test_a_container_that_is_started_again_takes_what_the_job_has_left(project: Trained, container: Path) -> None:
    def never(cluster: Any, launcher: Any) -> Any:
        raise AssertionError("there is nothing to launch")

    output = launch(container, JOB, never)
    assert STAGE in Baton.model_validate_json(Path(output.path).read_text()).stages


def test_another_run_gets_the_result_from_the_bucket_and_the_other_node_is_not_waited_for(
    project: Trained, container: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Node 0 finds the record and does not train; node 1, which no rank joins, ends all the same."""
    jobs = LocalJobs(["-m", "sentinel.pod.node"], ["-m", "sentinel.pod.node"])
    output = launch(container, "another", lambda cluster, launcher: jobs)
    assert STAGE in Baton.model_validate_json(Path(output.path).read_text()).stages
    with open_bucket(Place(str(project.bucket), "", "", "")) as store:
        assert noted(store, "another", STAGE) is not None
    assert f"Running stage '{FILE}:{STAGE}'" not in capfd.readouterr().out


def node(container: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sentinel.pod.node"]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)


def test_a_node_that_nobody_launched_says_what_is_missing(container: Path) -> None:
    told = json.dumps({"kind": "train", "run": RUN, "stage": STAGE, "job": "unknown"})
    seat = {"PET_NODE_RANK": "0", "PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "1"}
    for variables, message in (
        ({}, "SENTINEL_ORDER is not set"),
        ({"SENTINEL_ORDER": told}, "this is no node of a TrainJob (KeyError: 'PET_MASTER_ADDR')"),
        ({"SENTINEL_ORDER": told, **seat}, "run unknown left no baton for small-train-01"),
    ):
        done = node(container, **variables)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
