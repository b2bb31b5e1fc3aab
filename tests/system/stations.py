"""Stations for worker processes and for a stage that is killed: scripted agents at a human pace, and bad company.

Imports nothing heavy, as workers are started by the dozen.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sentinel.artifacts import read_jsonl, write_jsonl
from sentinel.env.overlay import World
from sentinel.errors import ArtifactError
from sentinel.llm.engine import Limits, Sample
from sentinel.llm.scripted import ScriptedEngine
from sentinel.llm.templates import Hermes
from sentinel.records import Task
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Demonstration, expert
from sentinel.rollout.episode import Assignment
from sentinel.rollout.journal import Journal
from sentinel.rollout.pool import Chunk, Station, assign, chunks
from sentinel.rollout.workers import Crew

ROOMY = 1_000_000
PACE = 0.005
"""Seconds of a turn: long enough to be killed in."""
BAD = "transfer/plain"
"""The condition of the task over which a station loses its temper."""


class Letters:
    """A tokenizer that every process has: one token for each character."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class Agent(Demonstration):
    """The expert at a human pace, for whom something may happen at the bad task."""

    def __init__(self, assignment: Assignment, arena: Arena, trouble: Callable[[], None]) -> None:
        super().__init__(assignment, arena, expert(assignment.task))
        self._trouble = trouble

    def advance(self, sample: Sample) -> list[int] | None:
        time.sleep(PACE)
        if self.assignment.task.knobs["condition"] == BAD:
            self._trouble()
        return super().advance(sample)


def peace() -> None:
    """Nothing happens."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(3600)


def once(marker: Path, trouble: Callable[[], None]) -> None:
    """The trouble happens to whoever comes first."""
    if not marker.exists():
        marker.touch()
        trouble()


def mendable() -> None:
    raise ArtifactError("weights", "are missing")


def defect() -> None:
    raise ZeroDivisionError("a defect")


def open_station(trouble: Callable[[], None] = peace) -> Station:
    arena = Arena(World.from_data({}), Hermes(), Letters(), "compact", 30, ROOMY)
    return Station(arena, ScriptedEngine(), Limits(1.0, ROOMY, ROOMY), "expert", partial(Agent, trouble=trouble))


def closed_station() -> Station:
    die()
    return open_station()


def work(tasks: Sequence[Task], trials: int = 2) -> list[Chunk]:
    return chunks(assign(tasks, trials, "workers"), 3)


def stage(folder: Path, processes: int, trials: int) -> None:
    """A stage in miniature: resumes from its journal, and writes its output when everything is played."""
    todo, journal = work(read_jsonl(folder / "tasks.jsonl", Task), trials), Journal(folder / "journal", "expert")
    played = Crew(open_station, processes).play(todo, journal, known=journal.read(todo))
    write_jsonl(folder / "trajectories.jsonl", [each.trajectory for each in played])
