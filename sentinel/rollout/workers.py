"""Worker processes for engines that allow it: scripted ones, and clients of a server (not those that hold weights).

    played = Crew(open_station, processes=4).play(chunks(assignments, 64), journal)

Every worker opens a station of its own and plays chunk after chunk; what it has played it writes to the journal, so the
result is the same bytes as one process's, whoever dies on the way. A worker that dies, or hangs longer than `Patience`
allows, is replaced and its chunk played again; after some attempts the chunk's episodes are void (infrastructure), with
the reason in their last message. An exception in a worker is a defect or something to mend, and ends the whole.
Left out: splitting a chunk to find the one episode that kills its worker; more than one machine.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any, NamedTuple

from sentinel.errors import SentinelError, StageError
from sentinel.llm.engine import Sample
from sentinel.rollout.episode import Episode, Played
from sentinel.rollout.journal import Journal
from sentinel.rollout.pool import NOTHING, Chunk, Station

OpenStation = Callable[[], Station]
"""Opens a station in a new process: picklable, so a function of a module, or `functools.partial` of one."""
_SPAWN = get_context("spawn")


@dataclass(frozen=True)
class Patience:
    """How long a worker may take. Seconds never decide an outcome: they only make it void."""

    start_seconds: float = 300.0
    """To open its station."""
    turn_seconds: float = 600.0
    """Between two turns, whichever of its episodes they belong to."""
    episode_seconds: float = 1800.0
    """For a chunk, times its episodes."""
    attempts: int = 3
    """Workers that a chunk may cost, and that may fail to start in a row."""


class _Problem(NamedTuple):
    """An exception in a worker."""

    text: str
    mendable: bool
    """By the user; else a traceback."""


class _Watched:
    """An episode whose turns are signs of life."""

    def __init__(self, episode: Episode, alive: Callable[[], None]) -> None:
        self._episode, self._alive = episode, alive

    def advance(self, sample: Sample) -> list[int] | None:
        self._alive()
        return self._episode.advance(sample)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._episode, name)


READY = -1


def _work(open_station: OpenStation, tasks: Mapping[int, Chunk], journal: Journal, parent: Any, clock: Any) -> None:
    """A worker's life: open a station, then play the chunks it is told to."""
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def alive() -> None:
        clock[0] = monotonic()

    def watched(*arguments: Any) -> Any:
        return _Watched(station.episode(*arguments), alive)

    try:
        station = open_station()
        watching = replace(station, episode=watched)
        parent.send(READY)
        while True:
            number = parent.recv()
            journal.write(watching.play(tasks[number]))
            parent.send(number)
    except SentinelError as error:
        parent.send(_Problem(str(error), True))
    except Exception:
        parent.send(_Problem(traceback.format_exc(), False))


def _die_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


class _Worker:
    """A worker as its parent sees it."""

    def __init__(self, open_station: OpenStation, tasks: Mapping[int, Chunk], journal: Journal) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self._clock = _SPAWN.Array("d", 1, lock=False)
        self.process = _SPAWN.Process(
            target=_work, args=(open_station, tasks, journal, theirs, self._clock), daemon=True
        )
        self.process.start()
        theirs.close()
        self.ready = False
        self.chunk: Chunk | None = None
        self._began = monotonic()

    @property
    def idle(self) -> bool:
        """Whether it waits for a chunk."""
        return self.ready and self.chunk is None

    def give(self, chunk: Chunk) -> None:
        """Have it play a chunk; that it is dead will be noticed by `fault`."""
        self.chunk, self._began = chunk, monotonic()
        try:
            self.pipe.send(chunk.number)
        except OSError:
            self.pipe.close()

    def hear(self) -> int | _Problem | None:
        """Its next message, if there is one."""
        try:
            message: int | _Problem | None = self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            return None
        return message

    def fault(self, patience: Patience) -> str | None:
        """What is wrong with it."""
        if not self.process.is_alive():
            return f"died with exit code {self.process.exitcode}"
        now = monotonic()
        if not self.ready:
            return "did not start in time" if now - self._began > patience.start_seconds else None
        if self.chunk is None:
            return None
        if now - max(self._began, self._clock[0]) > patience.turn_seconds:
            return f"stood still for {patience.turn_seconds:g} s"
        late = now - self._began > patience.episode_seconds * len(self.chunk.assignments)
        return f"took more than {patience.episode_seconds:g} s an episode" if late else None

    def stop(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Crew:
    """Processes that share the chunks of a pool."""

    def __init__(self, open_station: OpenStation, processes: int, patience: Patience | None = None) -> None:
        self._open, self._processes, self._patience = open_station, processes, patience or Patience()

    def play(
        self,
        chunks: Sequence[Chunk],
        journal: Journal,
        *,
        known: Mapping[int, list[Played]] = NOTHING,
        on_chunk: Callable[[list[Played]], None] = lambda played: None,
    ) -> list[Played]:
        """Play all chunks that are not `known`; the result is in their order, `on_chunk` in that of their ends.

        Raises:
            StageError: workers do not start, or one met something that the user can mend.
        """
        shift = _Shift(self._open, self._patience, chunks, journal, dict(known), on_chunk)
        try:
            while shift.pending or any(worker.chunk for worker in shift.workers):
                shift.staff(self._processes)
                shift.listen()
        finally:
            for worker in shift.workers:
                worker.stop()
        return [played for chunk in chunks for played in shift.finished[chunk.number]]


class _Shift:
    """One pool being played: who works on what, and what is still to do."""

    def __init__(
        self,
        open_station: OpenStation,
        patience: Patience,
        chunks: Sequence[Chunk],
        journal: Journal,
        finished: dict[int, list[Played]],
        on_chunk: Callable[[list[Played]], None],
    ) -> None:
        self._open, self._patience, self._journal, self._on_chunk = open_station, patience, journal, on_chunk
        self._tasks = {chunk.number: chunk for chunk in chunks if chunk.number not in finished}
        self.pending = deque(self._tasks.values())
        self.workers: list[_Worker] = []
        self.finished = finished
        self._costs: Counter[int] = Counter()
        self._false_starts = 0

    def staff(self, processes: int) -> None:
        """Have as many workers as there is work for, each with a chunk."""
        busy = sum(worker.chunk is not None for worker in self.workers)
        while len(self.workers) < min(processes, busy + len(self.pending)):
            self.workers.append(_Worker(self._open, self._tasks, self._journal))
        for worker in self.workers:
            if worker.idle and self.pending:
                worker.give(self.pending.popleft())

    def listen(self) -> None:
        """Wait for something to happen, a moment at most, and see to every worker."""
        pipes: list[Connection | int] = [worker.pipe for worker in self.workers if not worker.pipe.closed]
        wait(pipes + [worker.process.sentinel for worker in self.workers], timeout=0.2)
        for worker in tuple(self.workers):
            while (message := worker.hear()) is not None:
                self._heard(worker, message)
            if fault := worker.fault(self._patience):
                self._replace(worker, fault)

    def _heard(self, worker: _Worker, message: int | _Problem) -> None:
        if isinstance(message, _Problem):
            raise StageError(message.text) if message.mendable else RuntimeError(f"in a worker:\n{message.text}")
        if message == READY:
            worker.ready, self._false_starts = True, 0
        elif (chunk := worker.chunk) is not None:
            worker.chunk = None
            if (played := self._journal.find(chunk)) is None:
                raise RuntimeError(f"chunk {chunk.number} was played, but the journal does not hold it as it was asked")
            self._finish(chunk, played)

    def _finish(self, chunk: Chunk, played: list[Played]) -> None:
        self.finished[chunk.number] = played
        self._on_chunk(played)

    def _replace(self, worker: _Worker, fault: str) -> None:
        """Dismiss a worker; what it was at is played again, or is void if that has cost enough workers."""
        worker.stop()
        self.workers.remove(worker)
        if not worker.ready:
            self._false_starts += 1
            if self._false_starts >= self._patience.attempts:
                raise StageError(f"{self._false_starts} workers in a row failed to start; the last one {fault}")
        if (chunk := worker.chunk) is None:
            return
        played = self._journal.find(chunk)
        self._costs[chunk.number] += 1
        if played is None and self._costs[chunk.number] >= self._patience.attempts:
            played = self._void(chunk, f"{self._patience.attempts} workers were lost over this chunk; the last {fault}")
        if played is None:
            self.pending.appendleft(chunk)
        else:
            self._finish(chunk, played)

    def _void(self, chunk: Chunk, reason: str) -> list[Played]:
        """The chunk's episodes, all void."""
        station = self._open()
        episodes = [Episode(assignment, station.arena) for assignment in chunk.assignments]
        for episode in episodes:
            episode.abandon(reason)
        played = station.scored(chunk, episodes)
        self._journal.write(played)
        return played
