"""From an experiment file to a validated experiment, with the origin of every value.

    loaded = load(Path("experiments/retail-general.yaml"))
    loaded.experiment.spec.trainer.group_size     # 8
    loaded.origins["spec.trainer.group_size"]     # experiments/retail.yaml:58:17
    loaded.sources                                # the file and what it extends: the dependencies of its stages

Every fault of a file is reported at once, as `file:line:col: path: what was found, what was expected` with the line.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sentinel.spec.document import Document, read
from sentinel.spec.models import OWN_TASKS, STORED, Experiment, Section
from sentinel.spec.profile import Profile
from sentinel.spec.source import Node, Place, Problem
from sentinel.spec.study import Study


@dataclass(frozen=True)
class Loaded:
    """A validated experiment and where it came from."""

    experiment: Experiment
    origins: Mapping[str, Place]
    """Dotted path -> where the value stands; a value without an origin is a default."""
    sources: tuple[Path, ...]
    """The file itself, then what it extends."""

    def resolved(self) -> dict[str, Any]:
        """The whole experiment as plain data, defaults included; a file with this content loads to the same."""
        return self.experiment.model_dump(mode="json")


def load(path: Path | str) -> Loaded:
    """Read, merge and validate an experiment file.

    Files of the user's own are relative to the file that names them; loaded, they are relative to the working folder.

    Raises:
        SpecError: Every fault, each with its line.
    """
    return loaded(read(Path(path), {"Experiment": Experiment}, find_files))


def loaded(document: Document[Experiment]) -> Loaded:
    """A validated document as an experiment."""
    return Loaded(document.content, origins(document), tuple(source.path for source in document.chain.sources))


def check(path: Path | str) -> Section:
    """Check a file of any kind by itself and return what it holds; raises `SpecError` with every fault."""
    models: dict[str, type[Section]] = {"Experiment": Experiment, "Profile": Profile, "Study": Study}
    return read(Path(path), models, find_files).content


def origins(document: Document[Any]) -> dict[str, Place]:
    """Where each value of a document stands."""
    return {path: node.place for path, node in document.chain.root.leaves()}


def spec_hash(experiment: Experiment) -> str:
    """SHA-256 of the resolved science; name, labels and annotations are not science."""
    text = json.dumps(experiment.spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def find_files(root: Node) -> list[Problem]:
    """Check that the user's own files exist, and make their paths relative to the working folder."""
    return [problem for setting in (OWN_TASKS, STORED) for problem in _find_file(root, setting)]


def _find_file(root: Node, setting: str) -> list[Problem]:
    *sections, key = setting.split(".")
    section = root.find("spec", *sections)
    named = section and section.get(key)
    if not (section and named and isinstance(named.value, str) and named.value):
        return []
    path = Path(os.path.relpath(named.place.source.path.parent / named.value))
    section.children[key] = replace(named, value=path.as_posix())
    return [] if path.is_file() else [Problem(named.place, f"spec.{setting}", f"no such file {path}")]
