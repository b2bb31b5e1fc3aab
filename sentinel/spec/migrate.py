"""Spec versions: what this release reads, and how a file of an older one is brought up to it.

A migration is a pure function from one version's document to the next one's, registered under (from, to); `migrate`
follows them from the file's version to the current one on a round-trip document, so comments and order stay.
Loading never migrates by itself: the file in the repository is what is reviewed and hashed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sentinel.spec.models import API_VERSION
from sentinel.spec.source import Node, Problem, Reader, did_you_mean, failure, read_source

Migrations = Mapping[tuple[str, str], Callable[[dict[str, Any]], dict[str, Any]]]

MIGRATIONS: Migrations = {}
"""(from, to) -> the step between two neighbouring versions. v1alpha1 is the first version, so there is none yet."""

MISPLACED: Mapping[str, Mapping[str, str]] = {
    "Experiment": dict.fromkeys(
        ("device", "threads", "endpoints", "image", "gpus", "url"),
        "it says where an experiment runs: that belongs into a profile (experiments/profiles/)",
    )
}
"""Kind -> key it does not have (any more) -> what to do about it; an error shows it in place of a did-you-mean."""


def check_version(root: Node, known: Migrations = MIGRATIONS) -> None:
    """Raise a located `SpecError` unless the document is of the current version."""
    node = root.get("apiVersion")
    if node is None:
        raise failure([Problem(root.head, "apiVersion", f"missing, expected '{API_VERSION}'")])
    version = node.plain()
    older = [start for start, _ in known]
    if version in older:
        hint = f"; `sentinel migrate --write {node.place.source.path}` brings it up to date"
    else:
        hint = did_you_mean(str(version), older)
    if version != API_VERSION:
        raise failure([Problem(node.place, "apiVersion", f"found '{version}', expected '{API_VERSION}'{hint}")])


def migrate(path: Path, known: Migrations = MIGRATIONS) -> str:
    """The text of a spec file in the current version, comments kept; its own text where it is current already."""
    source = read_source(path)
    reader = Reader(source)
    root = reader.read()
    if reader.problems:
        raise failure(reader.problems)
    version = root.find("apiVersion")
    if version is None or version.value not in [start for start, _ in known]:
        check_version(root, known)
        return "\n".join(source.lines) + "\n"
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load("\n".join(source.lines) + "\n")
    steps = {start: (end, step) for (start, end), step in known.items()}
    while document["apiVersion"] != API_VERSION:
        end, step = steps[document["apiVersion"]]
        document = step(copy.deepcopy(document))
        document["apiVersion"] = end
    text = StringIO()
    yaml.dump(document, text)
    return text.getvalue()
