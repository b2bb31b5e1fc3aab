"""Anybody's file of episodes as trajectories that can be diagnosed: tau2's result files, and our own.

    batch = read_batch(Path("results.json"))
    batch.trajectories, batch.places, batch.unknown, batch.contradicted

tau2's files hold no end states: the calls are replayed in tau2's world and the episode is scored anew. An answer that
this world gives otherwise is noted in the conversation: from there on the two records tell different stories. Our own
files hold end states, and are believed; where a replay comes to another reward, in either kind, the episode is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sentinel.controller.suspicion import ENVIRONMENT_FAULT
from sentinel.env.overlay import TOOLS, Session, World
from sentinel.env.scoring import gold_delta, score
from sentinel.env.stored import differs, find_world, read_episodes, rescored
from sentinel.env.tau2 import benchmark_tasks
from sentinel.env.tau2_results import Stored, read_results
from sentinel.errors import ArtifactError
from sentinel.records import Counts, Ending, Message, Outcome, Reward, Role, Task, Trajectory, digest

Placed = tuple[str, Trajectory]
"""An episode with its place in the file."""


class Batch(NamedTuple):
    """The episodes of a file."""

    trajectories: tuple[Trajectory, ...]
    places: tuple[str, ...]
    """Where each stands in the file."""
    unknown: tuple[str, ...] = ()
    """Places of episodes whose task is not known: they cannot be diagnosed."""
    flawed: tuple[str, ...] = ()
    """Places of episodes whose record is not whole, and in what: they are void."""
    repeated: tuple[str, ...] = ()
    """Places of episodes that stand in the file before, message by message: they are left out."""
    contradicted: tuple[str, ...] = ()
    """Places of episodes that a replay scores otherwise than the file does."""


def read_batch(path: Path) -> Batch:
    """Read a tau2 result file or a `trajectories.jsonl`.

    Raises:
        ArtifactError: the file is neither, or not a whole one; names the place in it.
    """
    document, trajectories = read_episodes(path)
    if document is None:
        return _own(path, trajectories)
    stored = read_results(path, document, benchmark_tasks("tau2-base"))
    known = [(entry.place, _replayed(entry, entry.task)) for entry in stored if entry.task is not None]
    given = {entry.place: entry.reward for entry in stored}
    first, repeated = _distinct(known)
    contradicted = (_contradiction(place, played, given[place], played.reward) for place, played in first)
    return Batch(
        trajectories=tuple(played for _, played in first),
        places=tuple(place for place, _ in first),
        unknown=tuple(f"{entry.place} (task {entry.given})" for entry in stored if entry.task is None),
        flawed=tuple(f"{entry.place}: {entry.flaw}" for entry in stored if entry.flaw),
        repeated=repeated,
        contradicted=tuple(filter(None, contradicted)),
    )


def _own(path: Path, trajectories: Sequence[Trajectory]) -> Batch:
    """Our episodes hold their end states; a replay tells whether these are what the calls lead to."""
    first, repeated = _distinct([(f"line {line}", played) for line, played in enumerate(trajectories, 1)])
    try:
        world = find_world(path, {played.task.world for played in trajectories})
    except ArtifactError as error:
        contradicted: tuple[str, ...] = (f"none was replayed: {error.problem}",)
    else:
        found = (_contradiction(place, own, _given(own), rescored(own, world)) for place, own in first)
        contradicted = tuple(filter(None, found))
    places, played = (tuple(column) for column in zip(*first, strict=True))
    return Batch(played, places, repeated=repeated, contradicted=contradicted)


def _given(own: Trajectory) -> float:
    return float(own.outcome is Outcome.success)


def _contradiction(place: str, played: Trajectory, given: float | None, replayed: Reward | None) -> str | None:
    """What the file and the replay say, where they do not say the same."""
    if played.outcome is Outcome.void or replayed is None or given is None or given == replayed.total:
        return None
    return f"{place} (task {played.task.id}): the file gives {given:g}, the replay {replayed.total:g}"


def _distinct(known: Sequence[Placed]) -> tuple[list[Placed], tuple[str, ...]]:
    """The episodes without those of equal task, trial and messages, which are named; broken ones have no messages."""
    places: dict[str, str] = {}
    first, repeated = [], []
    for place, played in known:
        messages = [message.model_dump(mode="json") for message in played.messages]
        key = digest([played.task.id, played.trial, messages]) if messages else place
        if key in places:
            repeated.append(f"{place} (task {played.task.id}): the same as {places[key]}")
        else:
            places[key] = place
            first.append((place, played))
    return first, tuple(repeated)


def _replayed(stored: Stored, task: Task) -> Trajectory:
    """A stored simulation with the end states that its calls lead to."""
    world = World.tau2()
    session, gold = world.open(), gold_delta(world, task)
    messages = tuple(_replay(stored.messages, session))
    delta = session.delta()
    reward = _reward(stored, task, score(task, delta, gold, stored.texts))
    success = reward is not None and reward.total == 1.0
    outcome = Outcome.void if reward is None else Outcome.success if success else Outcome.failure
    return Trajectory(
        task=task,
        trial=stored.trial,
        seed=0,
        policy="stored",
        messages=messages,
        ending=stored.ending,
        outcome=outcome,
        void_reason=stored.void,
        reward=reward,
        world_delta=delta,
        gold_delta=gold,
        counts=Counts(
            turns=max((message.turn for message in messages), default=0),
            tokens=0,
            errors=sum(message.error for message in messages),
        ),
    )


def _reward(stored: Stored, task: Task, scored: Reward) -> Reward | None:
    """As tau2: voids have none, and what nobody ended in order scores nothing."""
    if stored.void is not None:
        return None
    return scored if stored.ending is Ending.user_stop else Reward(db=0.0, communicate=0.0)


def _replay(messages: tuple[Message, ...], session: Session) -> list[Message]:
    """The messages, with a note after the first answer that our world gives otherwise.

    What was answered to a call of a tool that the domain does not have is in no world: the call is the agent's fault.
    """
    replayed: list[Message] = []
    waiting: list[str | None] = []
    noted = False
    for message in messages:
        replayed.append(message)
        for call in message.tool_calls:
            waiting.append(session.call(call).text if call.name in TOOLS else None)
        if message.role is Role.tool and waiting:
            ours = waiting.pop(0)
            if not noted and ours is not None and differs(ours, message.content):
                noted = True
                text = f"{ENVIRONMENT_FAULT}this world answers otherwise: {ours[:200]}"
                replayed.append(Message(role=Role.system, content=text, turn=message.turn))
    return replayed
