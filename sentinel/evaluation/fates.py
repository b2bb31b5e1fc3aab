"""How the tasks that were made for a pattern went, iteration by iteration, from the episodes that were played anyway.

    fates(rollout_folder, lift, train_folder)["f3a9"].training      # Solved(episodes=96, successes=41)

Diagnosis plays what is left of earlier iterations' tasks in the pool, probing the candidates of this one before any
selection, training those that were kept. Voids count nowhere. Of an episode only two fields are read: files are large.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from sentinel.artifacts import require
from sentinel.errors import ArtifactError
from sentinel.records import Lift, Outcome


class Solved(NamedTuple):
    """Episodes that count, and how many of them succeeded."""

    episodes: int = 0
    successes: int = 0


class Fate(NamedTuple):
    """What became of the tasks of one pattern in one iteration, by what their episodes were played for."""

    diagnosis: Solved = Solved()
    probing: Solved = Solved()
    training: Solved = Solved()


def fates(rollout: Path, lift: Lift, train: Path) -> dict[str, Fate]:
    """Pattern id -> the fate of its tasks in an iteration.

    Args:
        rollout: folder of its diagnosis.
        lift: what probing its candidates showed.
        train: folder of its training.

    Raises:
        ArtifactError: an episode does not say what it was or how it ended; names path and line.
    """
    diagnosed, trained = (solved(folder / "trajectories.jsonl") for folder in (rollout, train))
    probed = {
        pattern: Solved(found.episodes, round(found.episodes * (1 - found.failure_rate)))
        for pattern, found in lift.patterns.items()
        if found.failure_rate is not None
    }
    nothing = Solved()
    return {
        pattern: Fate(diagnosed.get(pattern, nothing), probed.get(pattern, nothing), trained.get(pattern, nothing))
        for pattern in sorted({*diagnosed, *probed, *trained})
    }


def solved(path: Path) -> dict[str, Solved]:
    """Pattern id -> episodes of tasks that were made for it, and successes; from a file of trajectories."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    with require(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                played = json.loads(line)
                pattern, outcome = played["task"]["origin"].get("pattern"), Outcome(played["outcome"])
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ArtifactError(path, f"not an episode: {error!r}", line=number) from None
            if pattern is not None and outcome is not Outcome.void:
                counts[pattern][0] += 1
                counts[pattern][1] += outcome is Outcome.success
    return {pattern: Solved(*found) for pattern, found in counts.items()}
