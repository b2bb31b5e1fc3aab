"""The baton: what one pod hands to the next, as the content of a small Kubeflow artifact.

It holds the experiment's files (specs, compiled DVC files, profile), and DVC's lock entry of every stage done so far:
which outputs, by hash, come from which command, inputs and params. Data stays in the bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pydantic import Field
from ruamel.yaml import YAML

from sentinel.errors import StageError
from sentinel.records import Record
from sentinel.spec.profile import FOLDER

LockEntry = dict[str, Any]
"""A stage's entry of `dvc.lock`: `cmd`, `deps`, `params`, `outs`."""


class Pointer(NamedTuple):
    """An output of a stage, as DVC knows it."""

    path: str
    md5: str
    """Content hash: the name of the object in the bucket."""
    size: int
    """Bytes."""


class Baton(Record):
    """The files of an experiment, and what has been done."""

    spec: str
    """The experiment's file, relative to the project."""
    files: dict[str, str]
    """Path -> text of everything that a stage needs beside code and data."""
    code: bool
    """Whether `sentinel/` lies in the project, and is a dependency of the spec stages."""
    parameters: dict[str, str]
    """The run's parameters as they were submitted."""
    stages: dict[str, LockEntry] = Field(default_factory=dict)
    """Stage -> its lock entry, for all that is done."""

    def with_stage(self, name: str, entry: LockEntry) -> Baton:
        """The baton after one more stage."""
        return self.model_copy(update={"stages": {**self.stages, name: entry}})

    @property
    def science(self) -> dict[str, str]:
        """The files that say what is asked; profiles may differ between runs of one experiment."""
        return {path: text for path, text in self.files.items() if not path.startswith(f"{FOLDER.as_posix()}/")}

    def dvc_file(self, stage: str) -> str:
        """The compiled file in which a stage stands."""
        for path, text in self.compiled():
            if stage in YAML(typ="safe", pure=True).load(text)["stages"]:
                return path
        raise StageError(f"{stage}: no compiled DVC file of {self.spec} has this stage")

    def compiled(self) -> Iterator[tuple[str, str]]:
        """The compiled DVC files: path and text."""
        return ((path, text) for path, text in self.files.items() if PurePosixPath(path).name == "dvc.yaml")


def merge(batons: Iterable[Baton]) -> Baton:
    """One baton with the stages of several, all of the same experiment."""
    first, *others = batons
    stages = dict(first.stages)
    for other in others:
        if other.science != first.science:
            raise StageError(f"it was begun with another version of {first.spec}: start a new run")
        stages.update(other.stages)
    return first.model_copy(update={"stages": stages})


def pointers(entry: LockEntry) -> list[Pointer]:
    """The outputs of a lock entry."""
    return [Pointer(out["path"], out["md5"], out.get("size", 0)) for out in entry["outs"]]
