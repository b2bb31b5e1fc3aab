"""Runs stages of an experiment in containers, one each, with the main functions that Kubeflow's components call.

    pods = Pods(folder, submission, bucket)
    done = pods.perform(stage)          # start, wait, read the baton's metadata
    pods.start(stage); pods.kill(stage) # a node that goes away

A container gets what a pod gets: its image by digest, the profile's variables, credentials, batons, a state volume, and
a root that is read-only. It is nobody's: user 1000.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sentinel.artifacts import canonical
from sentinel.pipelines.place import Placement
from sentinel.pipelines.submission import Submission
from sentinel.plan import Stage
from sentinel.pod.baton import Baton
from sentinel.pod.parameters import to_text
from tests.system.containers.machine import Bucket, run

BODY = """
import json, sys
from pathlib import Path
from types import SimpleNamespace

def artifact(name):
    return SimpleNamespace(path=f"/batons/{{name}}", metadata={{}})

after = artifact({stage!r})
{call}
Path("/batons/{stage}.metadata").write_text(json.dumps(after.metadata))
"""
BEGIN = """
from sentinel.pod.main import begin
begin({run!r}, {job!r}, Path("/batons/project").read_text(), Path("/batons/parameters").read_text(), after)
"""
MAIN = """
from sentinel.pod import main
main({kind!r}, {run!r}, {job!r}, [artifact({before!r})], after)
"""
REPORT = """
from sentinel.pod.report import report
report({run!r}, {job!r}, artifact({before!r}), after, artifact("metrics"), artifact("page"), artifact("tables"))
"""
PATIENCE = 900.0
"""Seconds that a stage of a small experiment may take on a busy machine."""


class Done(NamedTuple):
    """A stage that ended well."""

    log: str
    metadata: dict[str, Any]


@dataclass
class Pods:
    """The containers of one run."""

    folder: Path
    """Holds the batons, and the state volume of each stage."""
    submission: Submission
    bucket: Bucket
    job: str = "first"
    containers: dict[str, str] = field(default_factory=dict)
    """Stage -> the id of its last container."""

    def __post_init__(self) -> None:
        baton = self.submission.project.baton
        parameters = dict(self.submission.parameters)
        carried = baton.model_copy(update={"parameters": parameters})
        self._write("project", canonical(carried.model_dump(mode="json")))
        self._write("parameters", to_text(parameters))

    @property
    def stages(self) -> list[Stage]:
        """All stages in an order in which they can run, the experiment's spec first."""
        plan = self.submission.project.plan
        spec = next(stage for stage in plan.own if stage.kind == "spec")
        return [spec, *(stage for stage in plan.stages if stage != spec)]

    @property
    def batons(self) -> Path:
        """What the containers hand to one another."""
        return self._open_to_all("batons")

    def state(self, stage: Stage) -> Path:
        """What survives a kill of the stage."""
        return self._open_to_all(f"state/{stage.name}")

    def start(self, stage: Stage) -> None:
        """Start the stage's container."""
        placement = Placement(self.submission.cluster, self.submission.images, self.submission.project.profile_name)
        variables = {**placement.variables(), **self.bucket.environment, "SENTINEL_STATE": "/state"}
        options = [
            *("--detach", "--network=host", "--read-only", "--cap-drop=ALL", "--tmpfs=/scratch", "--init"),
            *(f"--volume={self.batons}:/batons", f"--volume={self.state(stage)}:/state"),
            *(f"--env={name}={value}" for name, value in variables.items()),
        ]
        image = self.submission.images[stage.component]  # type: ignore[index]
        started = run("docker", "run", *options, image, "python", "-c", self._body(stage))
        self.containers[stage.name] = started.strip()

    def wait(self, stage: Stage) -> Done:
        """Wait until the stage has ended well."""
        container = self.containers.pop(stage.name)
        code = run("docker", "wait", container).strip()
        log = self._remove(container)
        assert code == "0", f"{stage.name} ended with code {code}:\n{log}"
        return Done(log, json.loads((self.batons / f"{stage.name}.metadata").read_text()))

    def perform(self, stage: Stage) -> Done:
        """Run a stage to its end."""
        self.start(stage)
        return self.wait(stage)

    def kill(self, stage: Stage, when: Callable[[], bool]) -> str:
        """Kill the stage's container without notice, as soon as something is so; returns its log."""
        container, deadline = self.containers.pop(stage.name), time.monotonic() + PATIENCE
        while not when():
            running = run("docker", "inspect", "--format={{.State.Running}}", container).strip() == "true"
            assert running, f"{stage.name} ended before it was killed:\n{self._remove(container)}"
            assert time.monotonic() < deadline, f"{stage.name} never came to the point:\n{self._remove(container)}"
            time.sleep(0.05)
        run("docker", "kill", container)
        return self._remove(container)

    def close(self) -> None:
        """Remove what is still there, after a failure."""
        while self.containers:
            self._remove(self.containers.popitem()[1])

    def baton(self, stage: Stage) -> Baton:
        """What the stage handed on."""
        return Baton.model_validate_json((self.batons / stage.name).read_text())

    def _remove(self, container: str) -> str:
        command = ["docker", "logs", container]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        run("docker", "rm", "--force", container)
        return done.stdout

    def _body(self, stage: Stage) -> str:
        names = [each.name for each in self.stages]
        index = names.index(stage.name)
        call = BEGIN if index == 0 else REPORT if stage.kind == "report" else MAIN
        before = names[index - 1] if index else ""
        filled = call.format(kind=stage.kind, run=stage.run, job=self.job, before=before)
        return BODY.format(stage=stage.name, call=filled)

    def _write(self, name: str, text: str) -> None:
        (self.batons / name).write_text(text)

    def _open_to_all(self, name: str) -> Path:
        """A folder that the containers' user can write."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        return path
