"""Playing the episodes of a stage: resumed after a kill, and watched.

with opened(context) as players:
played = play_all(context, players, assignments, context.spec.rollout)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from sentinel.records import Outcome
from sentinel.rollout.episode import Assignment, Played
from sentinel.rollout.journal import Journal
from sentinel.rollout.players import Players, Sampling, open_players
from sentinel.rollout.pool import chunks
from sentinel.stages.context import Context
from sentinel.stages.progress import Progress

if TYPE_CHECKING:
    from sentinel.llm.policy import Policy


class Chunked(Sampling, Protocol):
    """Sampling in chunks of a fixed size."""

    @property
    def chunk(self) -> int:
        """Episodes that are played together."""
        ...


class Pace:
    """Tells the progress how fast episodes are played and how they ended so far; void ones are named."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._began = progress, monotonic()
        self._episodes = self._tokens = self._void = self._won = 0

    def note(self, played: Sequence[Played]) -> None:
        """Count a finished chunk."""
        self._episodes += len(played)
        self._tokens += sum(each.trajectory.counts.tokens for each in played)
        self._void += sum(each.trajectory.outcome is Outcome.void for each in played)
        self._won += sum(each.trajectory.outcome is Outcome.success for each in played)
        seconds = monotonic() - self._began
        rates = {"episodes/s": self._episodes / seconds, "tokens/s": self._tokens / seconds}
        success = self._won / (self._episodes - self._void) if self._episodes > self._void else "-"
        self._progress.advance(len(played), success=success, void=str(self._void), **rates)


def opened(context: Context, live: Policy | None = None) -> AbstractContextManager[Players]:
    """The players of a stage; `live` is the policy as its trainer holds it (`sentinel.rollout.players`)."""
    return open_players(
        context.spec,
        policy=context.inputs["policy"],
        tasks=context.inputs["tasks"],
        profile=context.profile,
        state=context.state,
        live=live,
        say=context.progress.say,
    )


def play_all(context: Context, players: Players, assignments: Sequence[Assignment], sampling: Chunked) -> list[Played]:
    """Play all assignments in fixed chunks; those that an earlier attempt has finished are taken from the journal."""
    journal = Journal(context.state / "chunks", policy=players.name)
    known = journal.read(chunks(assignments, sampling.chunk))
    done = sum(len(played) for played in known.values())
    context.progress.start(len(assignments), "episodes", done=done)
    pace = Pace(context.progress)
    return players.play(assignments, sampling, chunk=sampling.chunk, journal=journal, known=known, on_chunk=pace.note)
