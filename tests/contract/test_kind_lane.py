"""The kind lane: every command that needs no cluster is run, the others are seen (`tests.contract.stand_in`)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components import release
from components.images import ROLES, TAG
from sentinel.errors import SentinelError
from tests.contract.kfp_server import Backend, parse_pipeline, serving
from tests.contract.listening import free_port
from tests.kind import lane
from tests.kind.__main__ import STEPS, main

Answer = tuple[str, str, int]
KEYS = {"accesskey": "key", "secretkey": "secret"}
SECRET = json.dumps({"data": {name: base64.b64encode(value.encode()).decode() for name, value in KEYS.items()}})
POD = "pod/retail-cpu-rollout"
THERE: Answer = ("get clusters", "other\nsentinel", 0)


class Machine:
    """A machine with stand-ins for all that would touch a cluster."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        bin_ = folder / "bin"
        bin_.mkdir()
        stand_in = Path(__file__).with_name("stand_in.py").read_text()
        for name in lane.TOOLS:
            (bin_ / name).write_text(f"#!{sys.executable} -IS\n{stand_in}")
            (bin_ / name).chmod(0o755)
        path = f"{bin_}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for variable, value in {"STAND_IN": str(folder), "PATH": path, "PYTHONWARNINGS": "ignore"}.items():
            patch.setenv(variable, value)
        self.answers()

    def answers(self, *found: Answer) -> None:
        (self._folder / "answers.json").write_text(json.dumps(found))

    def calls(self) -> list[str]:
        path = self._folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Machine:
    monkeypatch.chdir(root)
    monkeypatch.setattr(lane, "FOLDER", tmp_path / "kind")
    lane.FOLDER.mkdir()
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def backend() -> Iterator[Backend]:
    with serving() as made:
        yield made


def port(backend: Backend) -> lane.Ports:
    return lane.Ports(kfp=int(backend.url.rpartition(":")[2]))


# --- images ---


def test_the_images_that_are_loaded_are_those_that_are_built_and_those_that_run(machine: Machine) -> None:
    built = {f"sentinel-{role}:{TAG}" for role in ROLES}
    package = lane.FOLDER / "pipeline.yaml"
    command = ["sentinel", "submit", lane.SPEC, f"--profile={lane.PROFILE}", f"--output={package}"]
    subprocess.run(command, check=True, capture_output=True)
    spec = next(iter(YAML(typ="safe", pure=True).load_all(package)))
    used = {each["container"]["image"] for each in spec["deploymentSpec"]["executors"].values()}
    assert set(lane.images()) == built == used


def test_the_image_of_helm_test_is_one_of_them(root: Path) -> None:
    values = YAML(typ="safe", pure=True).load(root / "charts/sentinel/values.yaml")
    assert values["test"]["image"] in lane.images()


# --- kind-up ---


def test_up_makes_everything_in_order_and_only_in_its_own_cluster(machine: Machine) -> None:
    lane.up()
    calls = machine.calls()
    starts = [
        "docker image inspect --format={{.Id}} sentinel-controller:dev",
        "kind get clusters",
        f"kind create cluster --name=sentinel --image={lane.NODE}",
        "kind load docker-image sentinel-controller:dev",
        "kubectl --context=kind-sentinel apply -k https://github.com/kubeflow/pipelines/manifests/kustomize/cluster-scoped",
        "kubectl --context=kind-sentinel wait crd/applications.app.k8s.io",
        "kubectl --context=kind-sentinel apply -k https://github.com/kubeflow/pipelines/manifests/kustomize/env/platform",
        "kubectl --context=kind-sentinel wait deployments --all",
        "helm --kube-context=kind-sentinel upgrade --install sentinel charts/sentinel --namespace=kubeflow",
        "helm --kube-context=kind-sentinel test sentinel",
    ]
    assert len(calls) == len(starts)
    for call, start in zip(calls, starts, strict=True):
        assert call.startswith(start), call
    assert calls[4].endswith(f"?ref={lane.KFP}") and calls[6].endswith(f"?ref={lane.KFP}")


def test_a_cluster_that_is_there_is_used_again(machine: Machine) -> None:
    machine.answers(THERE)
    lane.up()
    assert not [call for call in machine.calls() if "create cluster" in call]


def test_files_that_the_lane_names_are_there(root: Path) -> None:
    cluster = YAML(typ="safe", pure=True).load(root / "tests/kind/cluster.yaml")
    assert cluster["kind"] == "Cluster" and len(cluster["nodes"]) == 1
    assert (root / lane.VALUES).is_file() and (root / lane.SPEC).is_file()
    stages = YAML(typ="safe", pure=True).load(root / "dvc.yaml")["stages"]
    assert lane.METRICS in stages[lane.REPORT]["outs"] + stages[lane.REPORT].get("metrics", [])
    bucket = YAML(typ="safe", pure=True).load(root / "experiments/profiles/kind.yaml")["spec"]["cluster"]
    assert bucket["bucket"]["url"] == lane.BUCKET and bucket["secrets"][0]["name"] == lane.SECRET


@pytest.mark.parametrize("step", STEPS)
def test_missing_programs_are_named(step: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(SystemExit, match=r"^error: not on PATH: .*kind.*make kind-install"):
        main(step)


@pytest.mark.parametrize("step", ["test", "logs"])
def test_without_a_cluster_there_is_nothing_to_test(step: str, machine: Machine) -> None:
    machine.answers(("get clusters", "other", 0))
    with pytest.raises(SystemExit, match=r"^error: there is no kind cluster 'sentinel': `make kind-up` makes it"):
        main(step)
    assert machine.calls() == ["kind get clusters"]


def test_without_a_cluster_there_is_nothing_to_remove(machine: Machine) -> None:
    lane.down()
    assert machine.calls() == ["kind get clusters"]


def test_missing_images_are_told_before_a_cluster_is_made(machine: Machine) -> None:
    machine.answers(("image inspect", "Error: No such image: sentinel-trainer:dev", 1))
    with pytest.raises(lane.LaneError, match=r"has not all images of the profile 'kind'.*`make images`"):
        lane.up()
    assert not [call for call in machine.calls() if call.startswith("kind")]


def test_a_step_that_fails_ends_the_lane_with_its_command(machine: Machine) -> None:
    machine.answers((r"upgrade --install", "", 1))
    with pytest.raises(lane.LaneError, match=r"helm .* upgrade --install sentinel .*: ended with code 1"):
        lane.up()
    assert not [call for call in machine.calls() if " test " in call]


# --- kind-test ---


def ending(backend: Backend, machine: Machine, state: str) -> None:
    """The run goes on until its pod was killed, then ends."""

    def look(run: dict[str, Any]) -> None:
        killed = any(" exec " in call for call in machine.calls())
        run["state"] = state if killed else "RUNNING"

    backend.on_look = look


def test_the_experiment_is_submitted_and_a_pod_of_its_rollout_killed_once(backend: Backend, machine: Machine) -> None:
    machine.answers(("get pods", POD, 0))
    ending(backend, machine, "SUCCEEDED")
    lane.submit(port(backend), wait=15.0)
    (run,) = backend.runs.values()
    spec, platform = parse_pipeline(run["pipeline_spec"])
    assert spec.pipeline_info.name == "retail-cpu" and "kubernetes" in platform.platforms
    assert run["runtime_config"]["parameters"]["image_trainer"] == "sentinel-trainer:dev"
    (kill,) = [call for call in machine.calls() if " exec " in call]
    assert POD in kill and kill.endswith("-- sh -c kill -KILL -1")
    selector = next(word for call in machine.calls() for word in call.split() if word.startswith("--selector="))
    label, _, value = selector.removeprefix("--selector=").partition("=")
    assert f'"{label}": "{value}"' in json.dumps(run["pipeline_spec"]["platform_spec"]), (
        "a pod that is looked for is there"
    )


def test_a_run_that_fails_fails_the_lane(backend: Backend, machine: Machine) -> None:
    machine.answers(("get pods", POD, 0))
    ending(backend, machine, "FAILED")
    with pytest.raises(lane.LaneError, match="the run did not succeed"):
        lane.submit(port(backend), wait=15.0)


def test_a_lane_that_could_kill_nothing_has_tested_nothing(backend: Backend, machine: Machine) -> None:
    backend.on_look = lambda run: run.update(state="RUNNING")
    with pytest.raises(lane.LaneError, match="nothing was killed"):
        lane.submit(port(backend), wait=4.0)
    assert threading.active_count() < 10


def test_a_port_leads_into_the_cluster_as_long_as_it_is_needed(machine: Machine) -> None:
    here = free_port()
    with lane.forwarded("svc/ml-pipeline", here, 8888):
        assert lane.listens(here)
    assert not lane.listens(here)
    (call,) = machine.calls()
    assert call == f"kubectl --context=kind-sentinel port-forward --namespace=kubeflow svc/ml-pipeline {here}:8888"


def test_a_port_that_somebody_else_has_is_named(backend: Backend, machine: Machine) -> None:
    """Else the run would be submitted to whatever listens there; 8888 is Jupyter's, too."""
    leading = lane.forwarded("svc/ml-pipeline", port(backend).kfp, 8888)
    with pytest.raises(lane.LaneError, match=r"port \d+ of this machine is taken, .* lead to svc/ml-pipeline"), leading:
        raise AssertionError
    assert machine.calls() == []


def test_a_port_that_leads_nowhere_is_no_success(machine: Machine) -> None:
    machine.answers(("port-forward", "error: services not found", 1))
    leading = lane.forwarded("svc/ml-pipeline", free_port(), 8888)
    with pytest.raises(lane.LaneError, match=r"port-forward .*svc/ml-pipeline .*leads nowhere"), leading:
        raise AssertionError


def test_the_bucket_is_the_clones_and_its_keys_are_the_clusters(machine: Machine) -> None:
    machine.answers(("get secret", SECRET, 0))
    assert lane.credentials() == {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def test_results_are_taken_in_a_real_clone_with_a_real_dvc(root: Path, tmp_path: Path) -> None:
    """Its remote, as DVC reads it back."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
    for arguments in lane.remote(lane.Ports(s3=9999)):
        subprocess.run(["dvc", "remote", *arguments], cwd=clone, check=True)
    told = subprocess.run(["dvc", "remote", "list"], cwd=clone, check=True, capture_output=True, text=True).stdout
    assert told.split()[:2] == ["bus", lane.BUCKET]
    assert "http://127.0.0.1:9999" in (clone / ".dvc/config.local").read_text()


def test_stages_that_executed_are_counted_and_figures_are_asked_for(tmp_path: Path) -> None:
    log = (
        "Stage 'retail-cpu-spec' is cached - skipping run, checking out outputs\nRunning stage 'retail-cpu-train-01':\n"
    )
    assert len(lane.EXECUTED.findall(log)) == 1
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"pass_hat_1_last": 0.75}))
    assert lane.figures(path) == 0.75
    for text in ("{}", "[", '{"pass_hat_1_last": null}'):
        path.write_text(text)
        with pytest.raises(lane.LaneError, match=r"no figure of Pass\^1"):
            lane.figures(path)


# --- kind-down, kind-logs ---


def test_down_finds_what_the_chart_left_and_deletes_the_cluster_all_the_same(machine: Machine) -> None:
    left = (r"kubectl .* get serviceaccounts", "role.rbac.authorization.k8s.io/sentinel-launcher", 0)
    machine.answers(THERE, left)
    with pytest.raises(lane.LaneError, match=r"the chart left role\.rbac"):
        lane.down()
    assert machine.calls()[-1] == "kind delete cluster --name=sentinel"


def test_down_of_a_clean_chart(machine: Machine) -> None:
    machine.answers(THERE)
    lane.down()
    _, workflows, first, second, _ = machine.calls()
    assert "delete workflows --all" in workflows
    assert first.startswith("helm --kube-context=kind-sentinel uninstall sentinel --namespace=kubeflow --wait")
    assert "app.kubernetes.io/instance=sentinel" in second


def test_logs_are_kept_even_if_some_cannot_be_had(machine: Machine) -> None:
    machine.answers(THERE, ("get workflows", "", 1), ("get events", "an event", 0))
    lane.logs()
    assert (lane.FOLDER / "logs/events.txt").read_text() == "an event\n"
    assert "ended with code 1" in (lane.FOLDER / "logs/workflows.txt").read_text()
    assert machine.calls()[-1].startswith("kind export logs")


# --- release ---


def test_a_release_signs_every_image_by_digest_with_its_sbom() -> None:
    reference = f"registry.invalid/sentinel-trainer@sha256:{'a' * 64}"
    sign, attest = release.signing({"trainer": reference})
    assert sign == ["cosign", "sign", "--yes", reference]
    assert attest[-1] == reference and "--predicate=build/sbom/sentinel-trainer.cdx.json" in attest


def test_a_release_pushes_the_chart_where_it_is_told() -> None:
    package, push = release.charting("1.2.3", "oci://registry.invalid/charts")
    assert "--version=1.2.3" in package and push[-2:] == [
        "build/release/sentinel-1.2.3.tgz",
        "oci://registry.invalid/charts",
    ]
    assert len(list(release.charting("1.2.3", ""))) == 1
    with pytest.raises(SystemExit, match="no version of a chart"):
        list(release.charting("main", ""))


def test_errors_of_the_lane_are_ours() -> None:
    assert issubclass(lane.LaneError, SentinelError)
