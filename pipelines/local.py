"""The very same pipeline without a cluster: compiled as for one, run by kfp.local on this machine.

The bucket is a folder of the project unless the profile names one; what survives a kill always lies in the project.
Tasks run one after the other.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from sentinel.errors import SentinelError, StageError
from sentinel.pipelines.submission import Submission, prepare
from sentinel.runner.child import ending, environment, start
from sentinel.spec.cluster import Bucket, Cluster, Retries
from sentinel.stages.context import HOME

Runner = Literal["subprocess", "docker"]
ANSI = re.compile(r"\x1b\[[0-9;]*m")
"""Colours, which kfp puts into its errors."""


class Done(NamedTuple):
    """A run that succeeded here."""

    made: Submission
    run: str
    """Its id: `sentinel pull` takes it."""


def here(root: Path) -> Cluster:
    """This machine as a place: the bucket in the project's own folder, no second try."""
    return Cluster(bucket=Bucket(url=str((root / HOME / "bucket").resolve())), retries=Retries(limit=0))


def run_local(
    spec: Path, profile: str, sets: Sequence[str] = (), runner: Runner = "subprocess", root: Path = Path()
) -> Done:
    """Compile an experiment and run its pipeline on this machine.

    Raises:
        SentinelError: the spec is wrong, or it is too long for one run.
        StageError: a task failed; its messages stand above.
    """
    made = prepare(spec, profile, sets, cluster=here(root), root=root)
    if made.part.of > 1:
        raise SentinelError(f"{spec}: {made.part.of} runs one after the other need a server; use `sentinel run`")
    home = (root / HOME).resolve()
    home.mkdir(exist_ok=True)
    variables = {**made.cluster.environment, "SENTINEL_STATE": str(home / "pods")}
    placed = replace(made, cluster=made.cluster.model_copy(update={"state": None, "environment": variables}))
    os.environ["PATH"] = environment()["PATH"]
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own: images without `python` in their name
        package = Path(folder) / "pipeline.yaml"
        placed.compile(package)
        with _tasks_that_end(), _runner(runner, placed, home) as chosen:
            _execute(package, chosen, home / "kfp")
    return Done(made, _latest(home / "kfp"))


@contextmanager
def _runner(name: Runner, made: Submission, home: Path) -> Iterator[Any]:
    from kfp import local

    if name == "subprocess":
        yield local.SubprocessRunner(use_venv=False)
        return
    from sentinel.pipelines.containers import runner

    with runner(made.cluster, made.images.values(), home) as containers:
        yield containers


@contextmanager
def _tasks_that_end() -> Iterator[None]:
    """Have kfp.local start tasks in a way that leaves none behind, and that believes no success it has not seen."""
    from kfp.local import docker_task_handler, subprocess_task_handler

    from sentinel.pipelines.containers import run_container

    theirs = subprocess_task_handler.run_local_subprocess, docker_task_handler.run_docker_container
    subprocess_task_handler.run_local_subprocess = run_process
    docker_task_handler.run_docker_container = run_container
    try:
        yield
    finally:
        subprocess_task_handler.run_local_subprocess, docker_task_handler.run_docker_container = theirs


def run_process(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
    """Run a task's command to its end; its exit code. It dies with this process, however that one dies."""
    process = start(full_command, {**os.environ, **(env_vars or {})})
    with ending(process), process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
    return process.returncode


def _execute(package: Path, runner: Any, outputs: Path) -> None:
    from kfp import components, local

    pipeline = components.load_component_from_file(str(package))
    local.init(runner=runner, pipeline_root=str(outputs), raise_on_error=True)
    try:
        with redirect_stdout(sys.stderr):  # kfp prints the tasks' logs
            pipeline()
    except RuntimeError as error:
        raise StageError(f"{ANSI.sub('', str(error))}\n    the failed task's own message stands above") from None


def _latest(outputs: Path) -> str:
    """The id that kfp gave the latest run: its stages note it beside their outputs."""
    folder = max(outputs.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for file in folder.rglob("executor_output.json"):
        for found in json.loads(file.read_text(encoding="utf-8"))["artifacts"].values():
            if run := found["artifacts"][0].get("metadata", {}).get("run"):
                return str(run)
    raise StageError(f"{folder}: no stage of the run left its note there")
