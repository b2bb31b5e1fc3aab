"""DVC itself, on the smallest experiment: what reruns, what does not, and what a kill leaves behind.

The tests run in order on one project, as a user would work: the first run takes about a minute, the others seconds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SPEC = "experiments/small.yaml"
FILE = "experiments/small/dvc.yaml"
FIRST = ["small-base", "small-spec"]
EVALUATIONS = ["small-evaluate", "small-evaluate-01", "small-report"]


class Project:
    """A project folder without git that holds the package's sources, as a checkout does."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        shutil.copytree(root / "sentinel", folder / "sentinel", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("experiments/profiles", ".dvcignore"):
            source = root / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        shutil.copy(root / "tests" / "e2e" / "small.yaml", folder / SPEC)
        script = folder / "bin" / "sentinel"
        script.parent.mkdir()
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sentinel.cli "$@"\n')
        script.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder)}

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def call(self, *command: str) -> str:
        with self.start(*command) as process:
            output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    def run(self) -> str:
        return self.call("sentinel.cli", "run", SPEC)

    def repro(self) -> list[str]:
        """The stages that plain `dvc repro` starts."""
        lines = self.call("dvc", "repro", FILE).splitlines()
        return [line.split(":")[-2].rstrip("'") for line in lines if line.startswith("Running stage ")]

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def artifacts(self) -> dict[str, str]:
        runs = self.folder / "runs"
        files = sorted(path for path in runs.rglob("*") if path.is_file())
        return {str(path.relative_to(runs)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def stages_alive(self) -> list[int]:
        """Processes of stages that work in this folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if b"sentinel.cli\0stage" in (process / "cmdline").read_bytes():
                    found += [int(process.name)] if (process / "cwd").resolve() == self.folder.resolve() else []
            except OSError:
                continue
        return found

    def wait_until_no_stage_is_alive(self) -> None:
        deadline = time.monotonic() + 20
        while alive := self.stages_alive():
            assert time.monotonic() < deadline, f"orphans: {alive}"
            time.sleep(0.1)

    def wait_for(self, stage: str, process: subprocess.Popen[str]) -> None:
        """Read the output until it names the stage."""
        assert process.stdout is not None
        for line in process.stdout:
            if stage in line:
                return
        raise AssertionError(f"{stage} was never started")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("project"), root)
    output = made.run()
    assert "11 ran of 11 stages" in output
    assert "Pass^1" in output and "runs/small/report/report.html" in output
    yield made
    assert made.stages_alive() == []


def test_again_runs_nothing(project: Project) -> None:
    assert "nothing had to run: all 11 stages are up to date" in project.run()
    assert project.repro() == []


def test_the_evaluator_reruns_evaluations_and_the_report(project: Project) -> None:
    project.edit(SPEC, "evaluator: {trials: 2", "evaluator: {trials: 3")
    assert sorted(project.repro()) == sorted(FIRST + EVALUATIONS)


def test_going_back_takes_everything_from_the_cache(project: Project) -> None:
    project.edit(SPEC, "evaluator: {trials: 3", "evaluator: {trials: 2")
    assert project.repro() == []


def test_edited_code_reruns_the_stages_that_use_it(project: Project) -> None:
    with (project.folder / "sentinel" / "evaluation" / "report.py").open("a") as file:
        file.write("\n")
    assert sorted(project.repro()) == sorted([*FIRST, "small-report"])


def test_iterations_changed_behind_the_compiler_are_refused(project: Project) -> None:
    project.edit(SPEC, "iterations: 1", "iterations: 2")
    with project.start("dvc", "repro", FILE) as process:
        output, _ = process.communicate()
    assert process.returncode != 0
    assert "was compiled from another version" in output
    project.edit(SPEC, "iterations: 2", "iterations: 1")
    assert project.repro() == []


@pytest.mark.parametrize("kept", [0, 700])
def test_a_lock_cut_short_by_a_kill_is_restored_from_the_cache(project: Project, kept: int) -> None:
    before = project.artifacts()
    lock = project.folder / "experiments" / "small" / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[:kept])
    output = project.run()
    assert "came from the cache" in output
    assert " ran" not in output
    assert project.artifacts() == before


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are prevented by a Linux system call")
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(project: Project) -> None:
    before = project.artifacts()
    for leftover in ("runs", ".sentinel", ".dvc/cache"):
        shutil.rmtree(project.folder / leftover)
    (project.folder / "experiments" / "small" / "dvc.lock").unlink()
    for stage, number, delay in (
        ("small-warmup", signal.SIGKILL, 3.0),
        ("small-rollout-01", signal.SIGTERM, 2.0),
        ("small-train-01", signal.SIGKILL, 2.5),
        ("small-report", signal.SIGINT, 0.0),
    ):
        with project.start("sentinel.cli", "run", SPEC) as process:
            project.wait_for(stage, process)
            time.sleep(delay)
            process.send_signal(number)
            process.communicate()
        project.wait_until_no_stage_is_alive()
    project.run()
    assert project.artifacts() == before


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are prevented by a Linux system call")
def test_a_stage_dies_with_dvc(project: Project) -> None:
    project.edit(SPEC, "{steps: 2,", "{steps: 3,")
    with project.start("dvc", "repro", FILE) as process:
        project.wait_for("small-train-01", process)
        process.kill()
        process.communicate()
    project.wait_until_no_stage_is_alive()
    project.edit(SPEC, "{steps: 3,", "{steps: 2,")


def test_a_second_run_is_told_to_wait(project: Project) -> None:
    project.edit(SPEC, "evaluator: {trials: 2", "evaluator: {trials: 4")
    with project.start("sentinel.cli", "run", SPEC) as first:
        project.wait_for("small-evaluate", first)
        with project.start("sentinel.cli", "run", SPEC) as second:
            output, _ = second.communicate()
        first.send_signal(signal.SIGINT)
        first.communicate()
    assert second.returncode == 1
    assert "another `sentinel run` works in this folder" in output
    assert first.returncode == 128 + signal.SIGINT


def test_a_stage_that_refuses_its_input_ends_the_run_with_2(project: Project) -> None:
    (project.folder / "experiments" / "own.jsonl").write_text("{}\n")
    project.edit(SPEC, "  general: 58", "  extra: own.jsonl\n    general: 58")
    with project.start("sentinel.cli", "run", SPEC) as process:
        output, _ = process.communicate()
    assert process.returncode == 2
    assert "experiments/own.jsonl:1: not a valid Task" in output
    assert "stage small-seed failed; its message above says what to mend" in output
    assert "ERROR" not in output
