"""The compiled pipeline, run by kfp.local on the smallest experiment: every stage in a folder of its own, one bucket.

The tests run in order on one project. The first run takes a minute or two, as each stage is a pod: it starts Python,
kfp, DVC and the stage; the others are restored from the bucket.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sentinel.pod.baton import Baton
from sentinel.pod.report import ABSENT
from tests.e2e.test_dvc import SPEC, Project

STAGES = 11
pytestmark = pytest.mark.timeout(1800)  # a first run on a busy machine


def submit(project: Project, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "sentinel.cli", "submit", "--local", *options, SPEC]
    return subprocess.run(command, cwd=project.folder, env=project.environment, capture_output=True, text=True)


def outputs(project: Project) -> dict[str, dict[str, Any]]:
    """Artifact -> metadata, over all tasks of the latest run; the stages' own are named by their stage."""
    runs = sorted((project.folder / ".sentinel" / "kfp").iterdir(), key=lambda run: run.stat().st_mtime_ns)
    found: dict[str, dict[str, Any]] = {}
    for file in runs[-1].rglob("executor_output.json"):
        for name, artifacts in json.loads(file.read_text())["artifacts"].items():
            (artifact,) = artifacts["artifacts"]
            metadata = artifact.get("metadata", {})
            found[metadata.get("stage", f"{file.parent.name}/{name}")] = {**metadata, "file": artifact["uri"]}
    return found


def executed(project: Project) -> list[str]:
    return sorted(name for name, metadata in outputs(project).items() if metadata.get("executed"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Project:
    made = Project(tmp_path_factory.mktemp("project"), root)
    done = submit(made)
    assert done.returncode == 0, done.stderr[-3000:]
    return made


def test_every_stage_ran_once_and_the_ui_has_what_it_shows(project: Project) -> None:
    found = outputs(project)
    assert len(executed(project)) == STAGES
    trained = found["small-train-01"]
    assert (
        trained["runs/small/01/train/policy"].startswith("md5 ") and ".dir, " in trained["runs/small/01/train/policy"]
    )
    summary = found["report/summary"]
    assert isinstance(summary["pass_hat_1_last"], float) and summary["pass_hat_4_gain"] == ABSENT
    assert Path(found["report/page"]["file"]).read_text().startswith("<!doctype html>")
    assert "11 of 11 stages of small are done." in Path(found["finish/tables"]["file"]).read_text()


def test_the_same_spec_again_executes_nothing(project: Project) -> None:
    assert submit(project).returncode == 0
    assert executed(project) == []
    assert len([name for name in outputs(project) if name.startswith("small-")]) == STAGES


def test_afterwards_a_git_checkout_takes_everything_and_executes_nothing(project: Project, tmp_path: Path) -> None:
    batons = [
        Baton.model_validate_json(Path(found["file"]).read_text())
        for name, found in outputs(project).items()
        if name == "small-report"
    ]
    clone = tmp_path / "clone"
    shutil.copytree(project.folder, clone, ignore=shutil.ignore_patterns(".sentinel", "__pycache__"))
    commands = (
        ["git", "init", "--quiet"],
        [sys.executable, "-m", "sentinel.cli", "compile"],
        [sys.executable, "-m", "dvc", "init", "--quiet"],
        [sys.executable, "-m", "dvc", "remote", "add", "-d", "bus", str(project.folder / ".sentinel" / "bucket")],
        [sys.executable, "-m", "dvc", "repro", "--pull", "experiments/small/dvc.yaml:small-report"],
    )
    environment = {**project.environment, "PYTHONPATH": str(clone)}
    for command in commands:
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage" not in done.stdout and done.stdout.count("is cached - skipping run") == STAGES
    lock = YAML(typ="safe", pure=True).load(clone / "experiments" / "small" / "dvc.lock")
    assert lock["stages"] == batons[0].stages


def test_a_bucket_that_cannot_be_written_stops_the_run_before_any_work(project: Project) -> None:
    bucket = project.folder / ".sentinel" / "bucket"
    bucket.rename(bucket.with_name("away"))
    bucket.write_text("a file where a folder should be")
    try:
        done = submit(project)
    finally:
        bucket.unlink()
        bucket.with_name("away").rename(bucket)
    assert done.returncode == 1
    assert "error: the bucket cannot be written" in done.stdout + done.stderr
    assert executed(project) == []
