"""Many episodes: fixed chunks in a fixed order, so that a batch's composition, and with it every bit, is reproducible.

    played = play(assignments, arena, engine, limits, chunk=128, policy=policy_hash(folder))

A chunk is the unit of work: of the journal that survives a kill (`sentinel.rollout.journal`), and of worker processes
(`sentinel.rollout.workers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from sentinel.llm.engine import Engine, Limits
from sentinel.records import Task
from sentinel.rollout.arena import Arena
from sentinel.rollout.episode import Assignment, Episode, Played
from sentinel.seeds import SeedPart, derive

NOTHING: Mapping[int, list[Played]] = MappingProxyType({})
"""No chunk was played by an earlier attempt."""


class Chunk(NamedTuple):
    """Episodes that are played together."""

    number: int
    assignments: Sequence[Assignment]


@dataclass(frozen=True)
class Station:
    """Where chunks are played: world, engine and limits, and what kind of episode."""

    arena: Arena
    engine: Engine
    limits: Limits
    policy: str = ""
    episode: Callable[[Assignment, Arena], Episode] = Episode

    def play(self, chunk: Chunk) -> list[Played]:
        """Play a chunk."""
        episodes = [self.episode(assignment, self.arena) for assignment in chunk.assignments]
        self.engine.run(episodes, self.limits)
        return self.scored(chunk, episodes)

    def scored(self, chunk: Chunk, episodes: Iterable[Episode]) -> list[Played]:
        """The finished episodes of a chunk."""
        return [episode.played(self.policy, chunk.number, row) for row, episode in enumerate(episodes)]


def assign(tasks: Iterable[Task], trials: int, *seed: SeedPart) -> list[Assignment]:
    """Every task `trials` times, each episode with a seed of its own."""
    return [Assignment(task, trial, derive(*seed, task.id, trial)) for task in tasks for trial in range(trials)]


def chunks(assignments: Sequence[Assignment], size: int) -> list[Chunk]:
    """All assignments, `size` at a time."""
    return [
        Chunk(number, assignments[begin : begin + size])
        for number, begin in enumerate(range(0, len(assignments), size))
    ]


def play(
    assignments: Sequence[Assignment],
    arena: Arena,
    engine: Engine,
    limits: Limits,
    *,
    chunk: int,
    policy: str = "",
    episode: Callable[[Assignment, Arena], Episode] = Episode,
    known: Mapping[int, list[Played]] = NOTHING,
    on_chunk: Callable[[list[Played]], None] = lambda played: None,
) -> list[Played]:
    """Play all assignments in this process.

    Args:
        assignments: what is to be played.
        arena: where.
        engine: by whom.
        limits: of sampling.
        chunk: episodes that are played together.
        policy: hash of the policy's weights, for the records.
        episode: makes an episode; the scripted engine needs one that brings its script.
        known: chunks that an earlier attempt has finished; they are not played.
        on_chunk: hears of each chunk that was played, in order (progress, journal).
    """
    station = Station(arena, engine, limits, policy, episode)
    finished: list[Played] = []
    for each in chunks(assignments, chunk):
        played = known.get(each.number)
        if played is None:
            played = station.play(each)
            on_chunk(played)
        finished += played
    return finished
