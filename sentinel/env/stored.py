"""Files of stored episodes: which kind a file is, in which world it plays, and whether that world answers as it did.

document, trajectories = read_episodes(path)      # of a tau2 result file, or of a trajectories.jsonl of ours
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sentinel.artifacts import canonical, parse_jsonl
from sentinel.env.overlay import World
from sentinel.env.scoring import gold_delta, score
from sentinel.errors import ArtifactError
from sentinel.records import Ending, Json, Reward, Role, Trajectory

EXPECTED = "expected a result file as tau2 writes it, or a trajectories.jsonl of ours"


class Episodes(NamedTuple):
    """What a file holds: one of the two."""

    document: Json
    """The JSON document of a tau2 file; `None` in any other."""
    trajectories: list[Trajectory]


def read_episodes(path: Path) -> Episodes:
    """Read a file that somebody chose, once, so that it may be a pipe; whether a tau2 file is whole, its reader tells.

    Raises:
        ArtifactError: it is neither a JSON document with simulations nor trajectories of ours, one a line; names those.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(path, f"cannot be read: {error.strerror}") from None
    if not content.strip():
        raise ArtifactError(path, "an empty file", hint=EXPECTED)
    first = _parsed_line(content.partition(b"\n")[0])
    if isinstance(first, dict) and "schema_version" in first:
        return Episodes(None, parse_jsonl(path, content.splitlines(keepends=True), Trajectory, hint=EXPECTED))
    document = _document(path, content)
    if not isinstance(document, dict) or "simulations" not in document:
        raise ArtifactError(path, "no `simulations` in it", hint=EXPECTED)
    return Episodes(document, [])


def _document(path: Path, content: bytes) -> Json:
    """The JSON document, or an error that says in what it is none."""
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if _parsed_line(content.partition(b"\n")[0]) is not None:
            raise ArtifactError(path, "JSONL, but its lines are not trajectories of ours", hint=EXPECTED) from None
        raise ArtifactError(path, f"neither JSON nor JSONL: {error}", hint=EXPECTED) from None
    try:
        canonical(document).encode()
    except UnicodeEncodeError:
        raise ArtifactError(
            path, "JSON, but with half a surrogate pair (as \\ud800) in a text", hint=EXPECTED
        ) from None
    except ValueError:
        raise ArtifactError(path, "JSON, but with NaN or Infinity as a number", hint=EXPECTED) from None
    return document


def _parsed_line(line: bytes) -> Json:
    """A line as JSON; `None` where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


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


def rescored(own: Trajectory, world: World) -> Reward:
    """What a trajectory's calls and words come to in this world; what nobody ended in order scores nothing."""
    if own.ending is not Ending.user_stop:
        return Reward(db=0.0, communicate=0.0)
    session = world.open(own.task.records)
    said = [message for message in own.messages if message.role is Role.assistant]
    for call in (call for message in said for call in message.tool_calls):
        session.call(call)
    texts = [message.content for message in said if not message.tool_calls]
    return score(own.task, session.delta(), gold_delta(world, own.task), texts)


def differs(ours: str, theirs: str | None) -> bool:
    """As tau2's replay compares: as JSON where it is JSON."""
    return theirs is not None and ours != theirs and _parsed(ours) != _parsed(theirs)


def _parsed(text: str) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
