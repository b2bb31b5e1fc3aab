"""The journal of finished chunks: what was played is taken as it was, and anything doubtful is played again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sentinel.artifacts import canonical
from sentinel.llm.engine import Limits
from sentinel.llm.scripted import ScriptedEngine
from sentinel.llm.transcript import Tokens
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Demonstration, expert
from sentinel.rollout.episode import Assignment, Played
from sentinel.rollout.journal import Journal
from sentinel.rollout.pool import Chunk, Station, assign, chunks, play
from tests.unit.builders import ROOMY, mixed, spelled

LIMITS = Limits(1.0, ROOMY, ROOMY)


def demonstration(assignment: Assignment, where: Arena) -> Demonstration:
    return Demonstration(assignment, where, expert(assignment.task))


def work(trials: int = 2) -> list[Chunk]:
    return chunks(assign(mixed(29)[:7], trials, 5), 4)


@cache
def station() -> Station:
    return Station(spelled(max_context=ROOMY), ScriptedEngine(), LIMITS, "abc", demonstration)


def plain(played: list[Played]) -> list[tuple[str, list[tuple[str, bytes]]]]:
    """Everything of the episodes, as text and bytes."""
    return [
        (
            canonical(each.trajectory.model_dump(mode="json")),
            [
                (str(a.dtype), a.tobytes())
                for sample in each.samples
                for a in (sample.ids, sample.sampled, sample.logprobs)
            ],
        )
        for each in played
    ]


def test_a_chunk_comes_back_as_it_was(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "chunks", "abc")
    assert journal.read(work()) == {}
    for chunk in work():
        played = station().play(chunk)
        journal.write(played)
        found = journal.find(chunk)
        assert found is not None
        assert plain(found) == plain(played)
    assert list(journal.read(work())) == [0, 1, 2, 3]


def test_episodes_of_several_samples_and_of_none(tmp_path: Path) -> None:
    first, second, *rest = station().play(work()[0])
    empty = Tokens(np.array([], np.int64), np.array([], np.bool_), np.array([], np.float32))
    played = [Played(first.trajectory, (first.tokens, second.tokens)), Played(second.trajectory, (empty,)), *rest]
    journal = Journal(tmp_path, "abc")
    journal.write(played)
    found = journal.find(work()[0])
    assert found is not None
    assert plain(found) == plain(played)
    assert [len(each.samples) for each in found] == [2, 1, 1, 1]


def test_only_missing_chunks_are_played_again(tmp_path: Path) -> None:
    def replay(known: dict[int, list[Played]], heard: list[int]) -> list[Played]:
        def on_chunk(played: list[Played]) -> None:
            heard.append(played[0].trajectory.chunk)

        assignments = [assignment for chunk in work() for assignment in chunk.assignments]
        where = station().arena
        return play(
            assignments, where, ScriptedEngine(), LIMITS, chunk=4, policy="abc",
            episode=demonstration, known=known, on_chunk=on_chunk,
        )  # fmt: skip

    heard: list[int] = []
    whole = replay({}, heard)
    journal = Journal(tmp_path, "abc")
    for number in (0, 2):
        journal.write(station().play(work()[number]))
    resumed = replay(journal.read(work()), heard)
    assert heard == [0, 1, 2, 3, 1, 3]
    assert plain(resumed) == plain(whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def pickle(path: Path) -> None:
    np.savez(path, trajectories=np.array([{"a": 1}], dtype=object))


def strange(path: Path) -> None:
    np.savez(path, trajectories=np.zeros(3, np.uint8), samples=np.array([1]), lengths=np.array([0]))


@pytest.mark.parametrize("damage", [cut, empty, flip, pickle, strange, Path.unlink])
def test_a_damaged_file_is_as_good_as_none(damage: Callable[[Path], None], tmp_path: Path) -> None:
    journal = Journal(tmp_path, "abc")
    journal.write(station().play(work()[0]))
    (file,) = tmp_path.iterdir()
    damage(file)
    assert journal.find(work()[0]) is None
    journal.write(station().play(work()[0]))
    assert journal.find(work()[0]) is not None


def test_chunks_of_other_work_are_not_believed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "abc")
    journal.write(station().play(work()[0]))
    (zero, one, *_), (other, *_) = work(), work(trials=1)
    assert Journal(tmp_path, "another policy").find(zero) is None
    assert journal.find(other) is None
    assert journal.find(Chunk(0, one.assignments)) is None
    assert journal.find(Chunk(0, zero.assignments[:3])) is None
    reseeded = [assignment._replace(seed=1) for assignment in zero.assignments]
    assert journal.find(Chunk(0, reseeded)) is None
    assert journal.find(zero) is not None


def test_a_killed_write_leaves_nothing_to_believe(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "abc")
    journal.write(station().play(work()[0]))
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / f".{file.name}.123.tmp")
    assert journal.read(work()) == {}
