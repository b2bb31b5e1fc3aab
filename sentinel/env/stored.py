"""Files of stored episodes: which kind a file is, in which world it plays, and whether that world answers as it did.

document = read_document(path)      # a parsed tau2 result file; None for a trajectories.jsonl of ours
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sentinel.artifacts import canonical, read_jsonl
from sentinel.env.overlay import World
from sentinel.errors import ArtifactError
from sentinel.records import Json, Trajectory

EXPECTED = "expected a result file as tau2 writes it, or a trajectories.jsonl of ours"


def read_document(path: Path) -> Json:
    """The JSON document of a tau2 file; `None` where the file holds trajectories, one a line."""
    try:
        text = path.read_text(encoding="utf-8")
        if _is_trajectory(text.partition("\n")[0]):
            return None
        document = json.loads(text)
        canonical(document).encode()  # refuses what no result can hold: NaN, half a surrogate pair
    except OSError as error:
        raise ArtifactError(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(path, f"neither JSON nor JSONL: {error}", hint=EXPECTED) from None
    if not isinstance(document, dict) or "simulations" not in document:
        raise ArtifactError(
            path,
            "no `simulations` in it",
            hint=EXPECTED,
        )
    return document


def read_trajectories(path: Path) -> list[Trajectory]:
    """The trajectories of a file of ours that somebody chose; errors name the line."""
    return read_jsonl(path, Trajectory, hint=EXPECTED)


def _is_trajectory(line: str) -> bool:
    try:
        first = json.loads(line)
    except ValueError:
        return False
    return isinstance(first, dict) and "schema_version" in first


def find_world(path: Path, hashes: set[str]) -> World:
    """The base world of our trajectories: tau2's, the empty one, or one that a seed stage wrote above the file."""
    if len(hashes) != 1:
        raise ArtifactError(path, f"its tasks play in {len(hashes)} different worlds; expected one")
    (wanted,) = hashes
    for world in (World.from_data({}), World.tau2(), *_worlds_near(path)):
        if world.hash == wanted:
            return world
    raise ArtifactError(path, f"its tasks play in world {wanted}, which is neither tau2's nor found near the file")


def _worlds_near(path: Path) -> Iterator[World]:
    for folder in path.resolve().parents:
        for file in sorted(folder.glob("bases/*/tasks/world.json")):
            yield World.from_data(json.loads(file.read_text(encoding="utf-8")))


def differs(ours: str, theirs: str | None) -> bool:
    """As tau2's replay compares: as JSON where it is JSON."""
    return theirs is not None and ours != theirs and _parsed(ours) != _parsed(theirs)


def _parsed(text: str) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
