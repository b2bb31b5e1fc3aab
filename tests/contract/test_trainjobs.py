"""TrainJobs through the real Kubeflow SDK, against a server that holds what it gets against Trainer's API models."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubeflow", reason="needs the extra trainjob")

from kubernetes.client import Configuration
from ruamel.yaml import YAML

from sentinel.errors import StageError
from sentinel.launch.follow import QUEUE, Order, State, follow
from sentinel.launch.trainjobs import TrainJobs
from tests.contract.trainer_server import Cluster, runtime, serving, status

ORDER = Order(
    name="retail-train-01-0a1b2c3d",
    image=f"registry.invalid/trainer@sha256:{'a' * 64}",
    nodes=2,
    resources={"cpu": "32", "memory": "256Gi", "nvidia.com/gpu": "8"},
    environment={"SENTINEL_REMOTE": "s3://b", "SENTINEL_ORDER": "{}"},
    labels={"sentinel.dev/stage": "retail-train-01"},
    seconds=7200,
)
QUEUED = replace(ORDER, labels={**ORDER.labels, QUEUE: "agents"})
NAME = ORDER.name
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's use of pydantic
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # the kubernetes client's thread pool
]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving() as made:
        made.runtimes["sentinel-torch"] = runtime("sentinel-torch")
        yield made


def connected(cluster: Cluster) -> TrainJobs:
    configuration = Configuration(host=cluster.url)
    configuration.retries = False
    made = TrainJobs.connect("team", "sentinel-torch", configuration)
    made._pause = 0.01
    return made


@pytest.fixture
def jobs(cluster: Cluster) -> TrainJobs:
    return connected(cluster)


def later(seconds: float, do: Any, *arguments: Any) -> threading.Timer:
    timer = threading.Timer(seconds, do, arguments)
    timer.start()
    return timer


def test_a_job_is_created_as_the_order_says(cluster: Cluster, jobs: TrainJobs) -> None:
    assert jobs.state(NAME) is State.absent
    jobs.create(QUEUED)
    made = cluster.jobs[NAME]
    assert made["metadata"]["namespace"] == "team" and made["metadata"]["labels"] == QUEUED.labels
    assert made["spec"]["activeDeadlineSeconds"] == 7200, "one that nobody follows any more ends all the same"
    assert made["spec"]["runtimeRef"] == {"name": "sentinel-torch", "kind": "TrainingRuntime"}
    trainer = made["spec"]["trainer"]
    assert (trainer["image"], trainer["numNodes"]) == (ORDER.image, 2)
    assert trainer["resourcesPerNode"]["limits"] == ORDER.resources == trainer["resourcesPerNode"]["requests"]
    assert {each["name"]: each["value"] for each in trainer["env"]} == ORDER.environment
    assert "command" not in trainer, "what a node does stands in the TrainingRuntime"
    assert jobs.state(NAME) is State.active


def test_no_secret_is_part_of_a_job(cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.create(ORDER)
    assert not any("AWS" in each["name"] for each in cluster.jobs[NAME]["spec"]["trainer"]["env"])


def test_a_job_that_another_attempt_has_created_is_no_error(cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.create(ORDER)
    before = dict(cluster.jobs[NAME])
    jobs.create(ORDER)
    assert cluster.jobs == {NAME: before}


def test_suspension_is_one_field_and_is_taken_back(cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.create(ORDER)
    jobs.suspend(NAME, True)
    assert cluster.jobs[NAME]["spec"]["suspend"] is True and jobs.state(NAME) is State.suspended
    jobs.suspend(NAME, False)
    assert cluster.jobs[NAME]["spec"]["suspend"] is False and jobs.state(NAME) is State.active


def test_the_pod_that_follows_a_job_owns_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """So Kubernetes removes it with the pod; the pod of the next attempt takes it over."""
    for name in ("first", "second"):
        for variable, value in (("POD_NAME", name), ("POD_UID", f"uid-{name}"), ("POD_NAMESPACE", "team")):
            monkeypatch.setenv(variable, value)
        later(1.0, lambda: cluster.end(NAME, "Complete"))
        follow(connected(cluster), ORDER, seconds=60.0, look=2.0)
        (owner,) = cluster.jobs[NAME]["metadata"]["ownerReferences"]
        assert owner == {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": f"uid-{name}"}
    assert cluster.requests.count("POST trainjobs") == 1


def test_without_a_pod_of_its_namespace_a_job_has_no_owner(cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.create(ORDER)
    jobs.claim(ORDER)
    assert "ownerReferences" not in cluster.jobs[NAME]["metadata"]


@pytest.mark.parametrize("condition", [None, "Failed", "Complete"])
def test_a_job_of_the_same_name_that_is_not_ours_is_left_alone(
    condition: str | None, cluster: Cluster, jobs: TrainJobs
) -> None:
    jobs.create(replace(ORDER, environment={"SENTINEL_ORDER": '{"job": "theirs"}'}))
    if condition:
        cluster.end(NAME, condition)
    with pytest.raises(StageError, match=r"was not made for this stage of this run: .*theirs(.|\n)*-n team"):
        follow(jobs, ORDER, seconds=60.0, look=2.0)
    assert not {"PATCH trainjobs", "DELETE trainjobs"} & set(cluster.requests)


def test_a_job_that_somebody_else_creates_in_between_is_seen(cluster: Cluster, jobs: TrainJobs) -> None:
    """Both saw none of this name; the other was first."""
    jobs.create(replace(ORDER, environment={}))
    cluster.faults["GET trainjobs"] = [status(404, "NotFound")]
    with pytest.raises(StageError, match="was not made for this stage of this run"):
        follow(jobs, ORDER, seconds=60.0, look=2.0)


def test_what_is_gone_has_no_nodes_to_give_back(cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.suspend(NAME, True)
    assert cluster.jobs == {}


def test_an_account_that_may_not_see_pods_does_not_flood_the_api(cluster: Cluster, jobs: TrainJobs) -> None:
    """The SDK gives up at once; whether the job has ended is asked for in peace."""
    jobs.create(ORDER)
    jobs._pause = 0.3
    cluster.faults["GET pods"] = [status(403, "Forbidden")] * 1000
    later(2.0, cluster.end, NAME, "Complete")
    follow(jobs, ORDER, seconds=60.0, look=2.0)
    assert cluster.requests.count("GET trainjobs") < 100


@pytest.mark.parametrize(("condition", "state"), [("Complete", State.complete), ("Failed", State.failed)])
def test_an_end_is_seen_at_once(condition: str, state: State, cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.create(ORDER)
    later(0.5, cluster.end, NAME, condition)
    began = time.monotonic()
    assert jobs.wait(NAME, 60.0) is state
    assert time.monotonic() - began < 50.0


def test_a_job_that_still_runs_is_waited_for_no_longer_than_asked(cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.create(ORDER)
    assert jobs.wait(NAME, 2.0) is State.active


def test_deleting_twice_is_no_error(cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.create(ORDER)
    jobs.delete(NAME)
    jobs.delete(NAME)
    assert cluster.jobs == {}


def test_short_outages_are_sat_out_and_long_ones_are_told(cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.create(ORDER)
    cluster.faults["GET trainjobs"] = [status(503, "Unavailable")] * 3
    assert jobs.wait(NAME, 2.0) is State.active
    cluster.faults["GET trainjobs"] = [status(503, "Unavailable")] * 50
    with pytest.raises(StageError, match=r"could not look at TrainJob .*: HTTP 503"):
        jobs.wait(NAME, 2.0)


def test_a_missing_runtime_says_what_makes_it(cluster: Cluster, jobs: TrainJobs) -> None:
    cluster.runtimes.clear()
    with pytest.raises(StageError, match=r"could not create TrainJob .*HTTP 404(.|\n)*charts/sentinel with"):
        jobs.create(ORDER)


def test_a_forbidden_account_is_told_so(cluster: Cluster, jobs: TrainJobs) -> None:
    cluster.faults["POST trainjobs"] = [status(403, "Forbidden")]
    with pytest.raises(StageError, match="HTTP 403: Forbidden"):
        jobs.create(ORDER)


def test_logs_come_from_the_first_node(cluster: Cluster, jobs: TrainJobs) -> None:
    jobs.create(ORDER)
    cluster.log = ["step 1", "step 2"]
    assert list(jobs.logs(NAME)) == ["step 1", "step 2"]


def test_a_job_is_followed_to_its_end(cluster: Cluster, jobs: TrainJobs, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.log = ["step 1 of 2", "step 2 of 2"]
    later(1.5, lambda: cluster.end(NAME, "Complete"))
    follow(jobs, ORDER, seconds=60.0, look=2.0)
    told = capsys.readouterr()
    assert "creating TrainJob retail-train-01-0a1b2c3d: 2 nodes" in told.err
    assert told.out == "step 1 of 2\nstep 2 of 2\n"
    follow(jobs, ORDER, seconds=60.0, look=2.0)
    assert cluster.requests.count("POST trainjobs") == 1, "a second attempt finds the first one's job"


def test_a_sigterm_suspends_the_job_and_the_next_attempt_resumes_it(cluster: Cluster, jobs: TrainJobs) -> None:
    later(1.0, os.kill, os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        follow(jobs, ORDER, seconds=60.0, look=2.0)
    assert left.value.code == 143 and cluster.jobs[NAME]["spec"]["suspend"] is True
    later(1.0, cluster.end, NAME, "Complete")
    follow(jobs, ORDER, seconds=60.0, look=2.0)
    assert cluster.jobs[NAME]["spec"]["suspend"] is False and cluster.requests.count("POST trainjobs") == 1


def test_a_job_that_takes_too_long_is_suspended(cluster: Cluster, jobs: TrainJobs) -> None:
    with pytest.raises(StageError, match=r"was suspended; try again(.|\n)*timeout_hours"):
        follow(jobs, ORDER, seconds=0.1, look=2.0)
    assert cluster.jobs[NAME]["spec"]["suspend"] is True


def test_a_job_that_failed_is_told_and_replaced_by_the_next_attempt(cluster: Cluster, jobs: TrainJobs) -> None:
    later(0.5, cluster.end, NAME, "Failed")
    with pytest.raises(StageError, match=f"kubectl describe trainjob {NAME}"):
        follow(jobs, ORDER, seconds=60.0, look=2.0)
    assert cluster.jobs, "it is left to be looked at"
    later(1.5, lambda: cluster.end(NAME, "Complete"))
    follow(jobs, ORDER, seconds=60.0, look=2.0)
    assert cluster.requests.count("POST trainjobs") == 2 and cluster.requests.count("DELETE trainjobs") == 1


def test_a_job_that_somebody_deletes_is_no_success(cluster: Cluster, jobs: TrainJobs) -> None:
    later(1.0, cluster.jobs.clear)
    with pytest.raises(StageError, match="was deleted by somebody"):
        follow(jobs, ORDER, seconds=60.0, look=2.0)


def test_the_role_of_the_chart_allows_what_a_launcher_asks(
    cluster: Cluster, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request of a launch that goes on after a suspension, fails, and is replaced; and nothing beyond."""
    for variable in ("POD_NAME", "POD_UID"):
        monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("POD_NAMESPACE", "team")
    jobs = connected(cluster)
    cluster.requests.clear()  # of connecting, which reads a ConfigMap of Trainer's if it may
    jobs.create(ORDER)
    jobs.suspend(NAME, True)
    later(1.5, lambda: cluster.end(NAME, "Failed"))
    with pytest.raises(StageError, match="failed"):
        follow(jobs, ORDER, seconds=60.0, look=2.0)
    later(1.5, lambda: cluster.end(NAME, "Complete"))
    follow(jobs, ORDER, seconds=60.0, look=2.0)
    asked = {ASKED[request] for request in cluster.requests}
    text = (root / "charts/sentinel/templates/role.yaml").read_text(encoding="utf-8").partition("rules:")[2]
    rules = YAML(typ="safe", pure=True).load(re.sub(r"{{-.*?}}", "", text).replace("{{", "'{{").replace("}}", "}}'"))
    allowed = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert asked == allowed, "not less, and not more"


ASKED = {
    "POST trainjobs": ("trainjobs", "create"),
    "GET trainjobs": ("trainjobs", "get"),
    "PATCH trainjobs": ("trainjobs", "patch"),
    "DELETE trainjobs": ("trainjobs", "delete"),
    "GET trainingruntimes": ("trainingruntimes", "get"),
    "GET pods": ("pods", "list"),
    "GET log": ("pods/log", "get"),
}
"""A request -> what the Kubernetes API wants to be allowed for it."""
