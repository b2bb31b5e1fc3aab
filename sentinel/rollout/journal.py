"""What survives a kill: the finished chunks of a pool, each in a file of its own, outside the stage's outputs.

    journal = Journal(context.state / "chunks", policy=policy_hash(folder))
    known = journal.read(chunks(assignments, 128))             # by number; empty at the first attempt
    played = play(assignments, ..., known=known, on_chunk=journal.write)

A file appears whole or not at all, and is believed only if it holds just the episodes that are asked for; anything else
is as good as missing, and its chunk is played again. Trajectories are stored as in an artifact, tokens as arrays;
nothing is pickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sentinel.artifacts import canonical, replacing
from sentinel.llm.transcript import Tokens
from sentinel.records import Trajectory
from sentinel.rollout.episode import Assignment, Played
from sentinel.rollout.pool import Chunk


class Journal:
    """The finished chunks of one pool."""

    def __init__(self, folder: Path, policy: str = "") -> None:
        self._folder, self._policy = folder, policy

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"

    def read(self, wanted: Iterable[Chunk]) -> dict[int, list[Played]]:
        """Those of the chunks that are finished, by number."""
        found = {chunk.number: self.find(chunk) for chunk in wanted}
        return {number: played for number, played in found.items() if played is not None}

    def find(self, chunk: Chunk) -> list[Played] | None:
        """The episodes of a finished chunk; `None` if it is not finished."""
        try:
            with self._path(chunk.number).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                played = list(_unpack(dict(arrays)))
        except (OSError, EOFError, KeyError, ValueError, ValidationError, zipfile.BadZipFile):
            return None
        return played if self._is(played, chunk) else None

    def _is(self, played: Sequence[Played], chunk: Chunk) -> bool:
        stored = [each.trajectory for each in played]
        places = [(t.policy, t.chunk, t.row) for t in stored]
        expected = [(self._policy, chunk.number, row) for row in range(len(chunk.assignments))]
        asked = [Assignment(t.task, t.trial, t.seed) for t in stored]
        return places == expected and asked == list(chunk.assignments)

    def write(self, played: Sequence[Played]) -> None:
        """Record a finished chunk, durably."""
        with replacing(self._path(played[0].trajectory.chunk)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **_pack(played))


def _pack(played: Sequence[Played]) -> dict[str, NDArray[Any]]:
    lines = "\n".join(canonical(each.trajectory.model_dump(mode="json")) for each in played)
    samples = [sample for each in played for sample in each.samples]
    return {
        "trajectories": np.frombuffer(lines.encode(), dtype=np.uint8),
        "samples": np.array([len(each.samples) for each in played]),
        "lengths": np.array([len(sample.ids) for sample in samples]),
        "ids": np.concatenate([sample.ids for sample in samples]),
        "sampled": np.concatenate([sample.sampled for sample in samples]),
        "logprobs": np.concatenate([sample.logprobs for sample in samples]),
    }


def _unpack(arrays: dict[str, NDArray[Any]]) -> Iterator[Played]:
    ends = np.cumsum(arrays["lengths"])[:-1]
    parts = (np.split(arrays[name], ends) for name in ("ids", "sampled", "logprobs"))
    samples = (Tokens(ids, sampled, logprobs) for ids, sampled, logprobs in zip(*parts, strict=True))
    lines = arrays["trajectories"].tobytes().decode().split("\n")
    for line, count in zip(lines, arrays["samples"].tolist(), strict=True):
        yield Played(Trajectory.model_validate_json(line), tuple(islice(samples, count)))
