"""The compiled pipeline, run by kfp.local on the smallest experiment: every stage in a folder of its own, one bucket.

The tests run in order on one project. Each stage is a pod, which starts Python, kfp, DVC and the stage; those that are
done are restored from the bucket. Then single pods are killed, doubled, and cut off from the bucket.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sentinel.pod.bus import record_path
from sentinel.pod.report import ABSENT
from tests.e2e.launched import Launcher, Local, Pod, alive, wait_until
from tests.e2e.test_dvc import FILE, SPEC
from tests.kind import lane

STAGES = 11
ROLLOUT = "small-rollout-01"
STAGE = re.compile(r"^\S+ \S+sentinel stage ")
"""The command line of a stage."""
STOPPED = re.compile(rf"^stopped by a signal: dvc repro .*:{ROLLOUT} ended with code 25[25]$", re.MULTILINE)
"""DVC's exit codes when it has seen the end of an interrupted stage; had it been killed, they were negative."""
pytestmark = pytest.mark.timeout(1800)  # a first run on a busy machine


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Local:
    made = Local(tmp_path_factory.mktemp("local") / "project", root)
    made.edit(SPEC, "rollout: {tasks: 12, trials: 2,", "rollout: {tasks: 48, trials: 4,")  # long enough to be killed
    done = made.submit("--local")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(made.first) > STAGES
    return made


@pytest.fixture(scope="module")
def launcher(project: Local, tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(project, tmp_path_factory.mktemp("pods"))


@pytest.fixture
def rollout(project: Local, launcher: Launcher) -> Callable[[str], Pod]:
    """Starts a pod of the rollout in a job of this name."""
    return partial(launcher.start, "rollout", "runs/small/01", Path(project.first["small-warmup"]["file"]))


@pytest.fixture
def record(project: Local) -> Path:
    """The rollout's record in the run-cache, which is taken away: the bucket knows every stage but this one."""
    found = project.bucket.joinpath(*record_path(project.finished.stages[ROLLOUT]))
    found.unlink()
    return found


def test_every_stage_ran_once_and_the_ui_has_what_it_shows(project: Local) -> None:
    found = project.outputs()
    assert len(project.executed()) == STAGES
    trained = found["small-train-01"]["runs/small/01/train/policy"]
    assert trained.startswith("md5 ") and ".dir, " in trained
    summary = found["report/summary"]
    assert isinstance(summary["pass_hat_1_last"], float) and summary["pass_hat_4_gain"] == ABSENT
    assert Path(found["report/page"]["file"]).read_text().startswith("<!doctype html>")
    assert "11 of 11 stages of small are done." in Path(found["finish/tables"]["file"]).read_text()


def test_a_git_checkout_pulls_the_run_and_executes_nothing(project: Local, root: Path, tmp_path: Path) -> None:
    clone = Local(tmp_path / "clone", root)
    for name in (SPEC, "experiments/profiles/bus.yaml"):
        shutil.copy(project.folder / name, clone.folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=clone.folder, check=True)
    run = project.first["small-report"]["run"]
    assert "small: 11 of 11 stages are here, nothing was executed" in clone.call("sentinel.cli", "pull", run)
    lock = YAML(typ="safe", pure=True).load(clone.folder / FILE.replace(".yaml", ".lock"))
    assert lock["stages"] == project.finished.stages
    assert (clone.folder / "runs/small/report/report.html").is_file()
    assert clone.repro() == []
    clone.edit(SPEC, "general: 58", "general: 59")
    for name, message in ((run, "-  general: 59\n+  general: 58"), ("other", f"the latest there: {run}")):
        with clone.start("sentinel.cli", "pull", name) as process:
            output, _ = process.communicate()
        assert process.returncode == 2 and message in output.replace("    ", "  ")


def test_the_kind_lane_takes_the_run_in_a_clone_and_sees_what_executes(
    project: Local, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `make kind-test` does when the run is over, with a folder for its bucket."""
    source = Local(tmp_path / "source", root)
    for name in (SPEC, "experiments/profiles/bus.yaml"):
        shutil.copy(project.folder / name, source.folder / name)
    shutil.copytree(root / ".dvc", source.folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local"))
    source.call("sentinel.cli", "compile")
    author = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    for command in (["init"], ["add", "--all"], [*author, "commit", "--message=as submitted"]):
        subprocess.run(["git", *command], cwd=source.folder, check=True, stdout=subprocess.DEVNULL)
    monkeypatch.chdir(source.folder)
    monkeypatch.setattr(lane, "FOLDER", tmp_path / "kind")
    monkeypatch.setattr(lane, "REPORT", f"{FILE}:small-report")
    monkeypatch.setattr(lane, "METRICS", "runs/small/report/metrics.json")
    monkeypatch.setattr(lane, "remote", lambda ports: [("add", "--local", "--default", "bus", str(project.bucket))])
    lane.FOLDER.mkdir()
    lane.taken({}, lane.Ports())
    assert (lane.FOLDER / "repro.log").read_text().count("is cached - skipping run") >= STAGES - 1
    record = project.bucket.joinpath(*record_path(project.finished.stages["small-report"]))
    kept = record.read_bytes()
    record.unlink()
    with pytest.raises(lane.LaneError, match="1 stages executed, though the run had made all of them"):
        lane.taken({}, lane.Ports())
    record.write_bytes(kept)


def test_a_bucket_that_cannot_be_written_stops_the_run_before_any_work(project: Local) -> None:
    project.bucket.rename(project.bucket.with_name("away"))
    project.bucket.write_text("a file where a folder should be")
    done = project.submit("--local", "--set", "evaluator.trials=4")
    project.bucket.unlink()
    project.bucket.with_name("away").rename(project.bucket)
    assert done.returncode == 1
    assert "error: the bucket cannot be written" in done.stdout + done.stderr
    assert project.executed() == []


def test_a_terminated_pod_ends_in_good_order_and_its_retry_resumes(
    launcher: Launcher, rollout: Callable[[str], Pod], record: Path
) -> None:
    pod = rollout("terminated")
    wait_until(launcher.kept, pod)
    log = pod.terminate()
    assert not launcher.alive() and "Traceback" not in log
    assert STOPPED.search(log)
    assert not pod.written.exists() and not record.exists(), "half an artifact"
    kept = {chunk: chunk.stat().st_mtime_ns for chunk in launcher.kept()}
    assert kept, "the state is lost"

    retried = rollout("retried")
    wait_until(lambda: len(launcher.kept()) > len(kept), retried)
    assert {chunk: chunk.stat().st_mtime_ns for chunk in kept} == kept, "a chunk was played again"
    code, log = retried.wait()
    assert code == 0 and retried.metadata()["executed"] is True, log
    timings = json.loads((launcher.state / "timings" / f"{ROLLOUT}.json").read_text())
    assert timings["resumed"] is True and record.exists()


def test_of_two_pods_at_the_same_stage_one_waits_and_takes_the_result(
    launcher: Launcher, rollout: Callable[[str], Pod], record: Path
) -> None:
    pods = [rollout(job) for job in ("one", "two")]
    ended = [pod.wait() for pod in pods]
    logs = "".join(log for _, log in ended)
    assert [code for code, _ in ended] == [0, 0], logs
    assert sorted(pod.metadata()["executed"] for pod in pods) == [False, True]
    assert logs.count("another pod is at this stage; waiting for its result") == 1
    assert record.exists()


def test_a_bucket_that_vanishes_before_the_push_loses_nothing(
    launcher: Launcher, rollout: Callable[[str], Pod], record: Path
) -> None:
    bucket = launcher.project.bucket
    pod = rollout("cut")
    wait_until(launcher.kept, pod)
    bucket.rename(bucket.with_name("away"))
    bucket.write_text("")
    code, log = pod.wait()
    bucket.unlink()
    bucket.with_name("away").rename(bucket)
    assert code == 1 and not pod.written.exists() and not record.exists()
    assert f"error: {ROLLOUT} is done, but its result was not sent" in log and "Traceback" not in log

    retried = rollout("mended")
    code, log = retried.wait()
    assert code == 0 and retried.metadata()["executed"] is False, log
    assert record.exists() and not list((launcher.state / "unsent").iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_task_outlives_a_run_that_alone_is_ended(project: Local, number: signal.Signals) -> None:
    state = (project.folder / ".sentinel" / "pods").resolve()
    trials = f"evaluator.trials={number + 3}"  # so that the first stage has something to do
    with project.start("sentinel.cli", "submit", "--local", "--set", trials, SPEC) as process:
        deadline = time.monotonic() + 120
        while not any(STAGE.search(command) for command in alive(state).values()):
            assert process.poll() is None and time.monotonic() < deadline
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
    deadline = time.monotonic() + 10
    while alive(state):
        assert time.monotonic() < deadline, alive(state)
        time.sleep(0.05)
