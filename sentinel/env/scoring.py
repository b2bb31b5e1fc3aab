"""The executable reward: did the episode leave the world as the gold answer does, and was everything said?

    gold = gold_delta(world, task)                               # once per task
    reward = score(task, session.delta(), gold, assistant_texts)

The verdict is tau2's (reward basis DB and COMMUNICATE), computed on deltas instead of whole-database hashes:
`sentinel check-env` compares the two on every real task. Quirks are kept: gold calls that fail are skipped in silence,
the order of items matters to `modify_pending_order_items`, and an unchanged world is right where the gold answer
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sentinel.artifacts import canonical
from sentinel.env.overlay import Delta, World
from sentinel.records import Json, Reward, Task


def gold_delta(world: World, task: Task) -> Delta:
    """What the gold answer changes; calls that fail change nothing (more), as in tau2's evaluator."""
    session = world.open(task.records)
    for call in task.gold:
        session.apply(call)
    return session.delta()


def reached(delta: Mapping[str, Json], gold: Mapping[str, Json]) -> bool:
    """Whether every record that the gold answer changes is as the gold answer leaves it, whatever else has changed."""
    return all(
        canonical(delta.get(kind, {}).get(identity)) == canonical(record)
        for kind, records in gold.items()
        for identity, record in records.items()
    )


def score(task: Task, delta: Mapping[str, Json], gold: Mapping[str, Json], texts: Iterable[str]) -> Reward:
    """Reward of an episode.

    Args:
        task: what had to be communicated, and what must not be said (`avoid`, our addition to tau2's basis).
        delta: records that the episode changed (`Session.delta`).
        gold: records that the gold answer changes (`gold_delta`).
        texts: the assistant's messages to the user.
    """
    db = delta == gold and canonical(delta) == canonical(gold)  # the text tells 1 from 1.0; most differ before that
    return Reward(db=float(db), communicate=float(_communicated(task, list(texts))))


def _communicated(task: Task, texts: list[str]) -> bool:
    """Every needed string is in some message and no forbidden one; messages lose their commas (`1,200` is 1200)."""
    said = [text.lower().replace(",", "") for text in texts if text.strip()]
    told = all(any(needle.lower() in text for text in said) for needle in task.communicate)
    forbidden = [needle.lower().replace(",", "") for needle in task.avoid]
    return told and not any(needle in text for needle in forbidden for text in said)
