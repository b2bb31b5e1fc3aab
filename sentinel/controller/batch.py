"""Anybody's file of episodes as trajectories that can be diagnosed: tau2's result files, and our own.

    batch = read_batch(Path("results.json"))
    batch.trajectories, batch.unknown

tau2's files hold no end states: the calls are replayed in tau2's world and the episode is scored anew. An answer that
this world gives otherwise is noted in the conversation: from there on the two records tell different stories.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sentinel.controller.suspicion import ENVIRONMENT_FAULT
from sentinel.env.overlay import Session, World
from sentinel.env.scoring import gold_delta, score
from sentinel.env.stored import differs, read_document, read_trajectories
from sentinel.env.tau2 import benchmark_tasks
from sentinel.env.tau2_results import Stored, read_results
from sentinel.records import Counts, Ending, Message, Outcome, Reward, Role, Task, Trajectory


class Batch(NamedTuple):
    """The episodes of a file."""

    trajectories: tuple[Trajectory, ...]
    unknown: tuple[str, ...]
    """Places of episodes whose task is not known: they cannot be diagnosed."""


def read_batch(path: Path) -> Batch:
    """Read a tau2 result file or a `trajectories.jsonl`.

    Raises:
        ArtifactError: the file is neither, or not a whole one; names the place in it.
    """
    document = read_document(path)
    if document is None:
        return Batch(tuple(read_trajectories(path)), ())
    stored = read_results(path, document, benchmark_tasks("tau2-base"))
    unknown = tuple(f"{entry.place} (task {entry.given})" for entry in stored if entry.task is None)
    known = (_replayed(entry, entry.task) for entry in stored if entry.task is not None)
    return Batch(tuple(known), unknown)


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
    """The messages, with a note after the first answer that our world gives otherwise."""
    replayed: list[Message] = []
    waiting: list[str] = []
    noted = False
    for message in messages:
        replayed.append(message)
        for call in message.tool_calls:
            waiting.append(session.call(call).text)
        if message.role is Role.tool and waiting:
            ours = waiting.pop(0)
            if not noted and differs(ours, message.content):
                noted = True
                text = f"{ENVIRONMENT_FAULT}this world answers otherwise: {ours[:200]}"
                replayed.append(Message(role=Role.system, content=text, turn=message.turn))
    return replayed
