"""A project whose pipeline runs on this machine, and single containers of it started as Kubeflow starts them.

In a pod, Argo's emissary (process 1) starts Kubeflow's launcher in a process group of its own, and that the component's
command. A pod that is deleted gets SIGTERM: the emissary hands it to the whole group. The launcher listens to no signal
and is gone at once; then the emissary ends, and with it every process of the container. So a stage in a pod has no time
to end in good order, and what it loses is what a SIGKILL would cost; where nothing stands between (docker, `submit
--local`), the command's Python ends DVC and the stage first. (Read in argo-workflows' cmd/argoexec/commands/emissary.go
and in kubeflow/pipelines' backend/src/v2/component/launcher_v2.go.)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from sentinel.pod.baton import Baton
from tests.e2e.test_dvc import SPEC, Project

Metadata = dict[str, Any]
PROFILE = """
apiVersion: sentinel.dev/v1alpha1
kind: Profile
metadata: {{name: bus}}
spec:
  threads: 2
  cluster: {{bucket: {{url: "{bucket}"}}, retries: {{limit: 0}}}}
"""


def outputs(project: Path) -> dict[str, Metadata]:
    """Artifact -> metadata, over all tasks of a project's latest run; the stages' own are named by their stage."""
    runs = sorted((project / ".sentinel" / "kfp").iterdir(), key=lambda run: run.stat().st_mtime_ns)
    found: dict[str, Metadata] = {}
    for file in runs[-1].rglob("executor_output.json"):
        for name, artifacts in json.loads(file.read_text())["artifacts"].items():
            (artifact,) = artifacts["artifacts"]
            metadata = artifact.get("metadata", {})
            found[metadata.get("stage", f"{file.parent.name}/{name}")] = {**metadata, "file": artifact["uri"]}
    return found


class Local(Project):
    """A project with a bucket in a folder beside it."""

    def __init__(self, folder: Path, root: Path) -> None:
        super().__init__(folder, root)
        self.bucket = folder.parent / "bucket"
        (folder / "experiments/profiles/bus.yaml").write_text(PROFILE.format(bucket=self.bucket))

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "SENTINEL_PROFILE": "bus", "PYTHONWARNINGS": "ignore"}

    def submit(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sentinel.cli", "submit", *options, SPEC]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def outputs(self) -> dict[str, Metadata]:
        return outputs(self.folder)

    def executed(self) -> list[str]:
        return sorted(name for name, metadata in self.outputs().items() if metadata.get("executed"))

    @cached_property
    def first(self) -> dict[str, Metadata]:
        """The outputs of the first run, if asked for after it and before the next."""
        return self.outputs()

    @property
    def finished(self) -> Baton:
        """What the first run handed on in the end."""
        return Baton.model_validate_json(Path(self.first["small-report"]["file"]).read_text())


@dataclass
class Pod:
    """One container's command, under way."""

    process: subprocess.Popen[str]
    written: Path
    """Where the executor says what it made."""

    def terminate(self) -> str:
        """What the kubelet does to a pod that is deleted; returns the log, when nothing of it is left."""
        os.killpg(self.process.pid, signal.SIGTERM)
        log, _ = self.process.communicate(timeout=60)
        return log

    def wait(self) -> tuple[int, str]:
        """Exit code and log."""
        log, _ = self.process.communicate(timeout=300)
        return self.process.returncode, log

    def metadata(self) -> Metadata:
        """What the UI shows of its result."""
        (output,) = json.loads(self.written.read_text())["artifacts"].values()
        found: Metadata = output["artifacts"][0]["metadata"]
        return found


class Launcher:
    """Starts containers of a compiled pipeline, each with a state volume that survives it."""

    def __init__(self, project: Local, folder: Path) -> None:
        self.project, self._folder = project, folder
        package = folder / "pipeline.yaml"
        done = project.submit("--output", str(package))
        assert done.returncode == 0, done.stderr
        self._ir = next(yaml.load_all(package.read_text(), Loader=yaml.CSafeLoader))
        self.state = folder / "state"

    def start(self, component: str, run: str, before: Path, job: str) -> Pod:
        """Start a component that takes one baton; its folder is named by the job."""
        folder = self._folder / job
        folder.mkdir()
        given = self._ir["components"][f"comp-{component}"]
        container = self._ir["deploymentSpec"]["executors"][given["executorLabel"]]["container"]
        (input_,), (output,) = given["inputDefinitions"]["artifacts"], given["outputDefinitions"]["artifacts"]
        message = {
            "inputs": {"parameterValues": {"run": run, "job": job}, "artifacts": {input_: artifact(before)}},
            "outputs": {"artifacts": {output: artifact(folder / output)}, "outputFile": str(folder / "written.json")},
        }
        args = [json.dumps(message) if word == "{{$}}" else word for word in container["args"]]
        variables = {one["name"]: one["value"] for one in container["env"]} | {"SENTINEL_STATE": str(self.state)}
        process = subprocess.Popen(
            [*container["command"], *args], env={**self.project.environment, **variables}, cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        return Pod(process, folder / "written.json")

    def alive(self) -> dict[int, str]:
        """Processes of its pods, stages included."""
        return alive(self.state)

    def kept(self) -> list[Path]:
        """Finished chunks of episodes on the state volume."""
        return sorted(self.state.rglob("chunks/[!.]*"))


def alive(state: Path) -> dict[int, str]:
    """Processes of all containers with this state volume: id -> command line."""
    mark, found = f"SENTINEL_STATE={state}\0".encode(), {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def artifact(path: Path) -> Any:
    """An artifact as the launcher describes it."""
    return {"artifacts": [{"name": path.name, "uri": str(path), "type": {"schemaTitle": "system.Artifact"}}]}


def wait_until(ready: Callable[[], object], pod: Pod) -> None:
    """Until something is so, or the pod has ended."""
    deadline = time.monotonic() + 120
    while not ready():
        assert pod.process.poll() is None, f"it ended before:\n{pod.wait()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.01)
