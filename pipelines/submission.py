"""Everything about a run before a server is asked: checked, compiled, and named. What fails here created nothing.

submission = prepare(Path("experiments/retail.yaml"), "gpu")
submission.compile(Path("retail.pipeline.yaml"))
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sentinel.errors import SpecError
from sentinel.fingerprint import code_hash
from sentinel.pipelines.images import images
from sentinel.pipelines.parameters import ABSENT, shown
from sentinel.pipelines.parts import Part, parts
from sentinel.pipelines.project import Project, read_project
from sentinel.spec.cluster import Cluster, Role
from sentinel.spec.load import spec_hash

SHORT = 8
"""Digits of a hash in a name."""


@dataclass(frozen=True)
class Submission:
    """One run, ready to be created."""

    project: Project
    cluster: Cluster
    images: Mapping[Role, str]
    part: Part
    parameters: Mapping[str, str]

    @property
    def experiment(self) -> str:
        """The Kubeflow experiment by default: runs of one spec stand together."""
        return self.project.plan.experiment

    @property
    def name(self) -> str:
        """The run's name by default."""
        part = f" part {self.part.text}" if self.part.of > 1 else ""
        return f"{self.experiment} {self.parameters['spec_hash'][:SHORT]}{part}"

    def compile(self, path: Path) -> None:
        """Write the pipeline as the YAML that Kubeflow takes.

        In a thread of its own: for every setting of a task, kfp reads the source of all frames below it
        (`inspect.stack`), which takes a minute from within a notebook or a test, and a second from an empty stack.
        """
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self._compile, path).result()

    def _compile(self, path: Path) -> None:
        from kfp import compiler

        from sentinel.pipelines.build import Builder
        from sentinel.pipelines.place import Placement

        launching = self.project.profile.launches is not None
        placement = Placement(self.cluster, self.images, self.project.profile_name, launching)
        pipeline = Builder(self.project, placement, self.part).build(self.parameters)
        compiler.Compiler().compile(pipeline, str(path))


def prepare(
    spec: Path,
    profile: str,
    sets: Sequence[str] = (),
    *,
    number: int = 1,
    previous: str = "",
    cluster: Cluster | None = None,
    root: Path = Path(),
) -> Submission:
    """Read, check and name a run.

    Args:
        spec: The experiment's file.
        profile: Name or path of the profile.
        sets: `key=value` changes of the spec.
        number: Which part of a long experiment.
        previous: Kubeflow's id of the run that it continues.
        cluster: The place, if the profile has none.
        root: The project.

    Raises:
        SpecError: Something is wrong with the spec, the profile or the images.
    """
    project = read_project(spec, profile, sets, root)
    place = project.profile.cluster or cluster
    if place is None:
        raise SpecError([f"profile '{project.profile_name}': has no section `cluster`, so it names no Kubeflow"])
    part = Part(number, parts(project.experiment.spec.iterations), previous)
    locked = images(place, root)
    return Submission(project, place, locked, part, parameters(project, locked, part, revision(root)))


def parameters(project: Project, locked: Mapping[Role, str], part: Part, git: str) -> dict[str, str]:
    """The run's parameters: the same keys for every spec."""
    return {
        "experiment": project.plan.experiment,
        "spec_hash": spec_hash(project.experiment),
        "code": code_hash(),
        "git_revision": git,
        "profile": project.profile_name,
        "part": part.text,
        "continues": part.previous or ABSENT,
        **{f"image_{role}": reference for role, reference in locked.items()},
        **shown(project.experiment.spec),
    }


def revision(root: Path) -> str:
    """The checkout's commit, marked if files differ from it; `-` outside of git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ABSENT
    return done.stdout.strip()
