"""Rollouts under fire: workers and whole stages are killed at random moments, and the result does not show it."""

from __future__ import annotations

import multiprocessing
import random
import threading
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from sentinel.artifacts import canonical
from sentinel.errors import StageError
from sentinel.records import Ending, Outcome, Role, Task, Trajectory, VoidReason
from sentinel.rollout.episode import Played
from sentinel.rollout.journal import Journal
from sentinel.rollout.workers import Crew, Patience
from tests.system import stations
from tests.unit.builders import mixed

PATIENCE = Patience(start_seconds=300, turn_seconds=300, episode_seconds=300, attempts=50)


@cache
def tasks() -> list[Task]:
    return mixed(29)[:28]


@cache
def undisturbed() -> list[str]:
    """What one process makes of the work."""
    station = stations.open_station()
    return plain([played for chunk in stations.work(tasks()) for played in station.play(chunk)])


def plain(played: list[Played]) -> list[str]:
    return [
        canonical(each.trajectory.model_dump(mode="json")) + each.tokens.ids.tobytes().hex() + str(each.tokens.sampled)
        for each in played
    ]


def complete(trajectories: list[Trajectory]) -> bool:
    """Whether every (task, trial) is there once."""
    return Counter((t.task.id, t.trial) for t in trajectories) == Counter(
        (task.id, trial) for task in tasks() for trial in range(2)
    )


def test_workers_play_what_one_process_plays(tmp_path: Path) -> None:
    todo, journal = stations.work(tasks()), Journal(tmp_path, "expert")
    station, heard = stations.open_station(), list[int]()
    known = {number: station.play(todo[number]) for number in (0, 7)}
    crew = Crew(stations.open_station, 2, PATIENCE)
    played = crew.play(todo, journal, known=known, on_chunk=lambda each: heard.append(each[0].trajectory.chunk))
    assert plain(played) == undisturbed()
    assert sorted(heard) == sorted({chunk.number for chunk in todo} - {0, 7})
    assert multiprocessing.active_children() == []
    rest = crew.play(todo, journal, known=journal.read(todo) | known, on_chunk=lambda each: pytest.fail("known"))
    assert plain(rest) == undisturbed()


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_that_are_killed_are_replaced(seed: int, tmp_path: Path) -> None:
    rng, over, killed = random.Random(seed), threading.Event(), list[int]()

    def kill() -> None:
        while not over.wait(rng.uniform(0.0, 1.5)):
            if children := multiprocessing.active_children():
                child = rng.choice(children)
                child.kill()
                killed.append(child.pid or 0)
            if len(killed) >= 6:
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        played = Crew(stations.open_station, 2, PATIENCE).play(stations.work(tasks()), Journal(tmp_path, "expert"))
    finally:
        over.set()
        killer.join()
    assert killed
    assert plain(played) == undisturbed()
    assert complete([each.trajectory for each in played])


@pytest.mark.parametrize("trouble", [stations.die, stations.hang])
def test_a_worker_that_is_lost_once_costs_nothing(trouble: Callable[[], None], tmp_path: Path) -> None:
    station = partial(stations.open_station, partial(stations.once, tmp_path / "marker", trouble))
    crew = Crew(station, 2, Patience(turn_seconds=3.0))
    assert plain(crew.play(stations.work(tasks()), Journal(tmp_path / "journal", "expert"))) == undisturbed()
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("trouble", "patience", "reason"),
    [
        (stations.die, Patience(attempts=2), "died with exit code -9"),
        (stations.hang, Patience(turn_seconds=2.0, attempts=1), "stood still for 2 s"),
        (stations.hang, Patience(episode_seconds=1.0, attempts=1), "took more than 1 s an episode"),
    ],
)
def test_a_chunk_that_costs_too_many_workers_is_void(
    trouble: Callable[[], None], patience: Patience, reason: str, tmp_path: Path
) -> None:
    todo, journal = stations.work(tasks()), Journal(tmp_path, "expert")
    played = Crew(partial(stations.open_station, trouble), 2, patience).play(todo, journal)
    trajectories = [each.trajectory for each in played]
    bad = {t.chunk for t in trajectories if t.task.knobs["condition"] == stations.BAD}
    assert bad
    for each, expected in zip(played, undisturbed(), strict=True):
        if each.trajectory.chunk not in bad:
            assert plain([each]) == [expected]
    void = [t for t in trajectories if t.outcome is Outcome.void]
    assert {t.chunk for t in void} == bad
    assert len(void) == sum(len(todo[number].assignments) for number in bad)
    for trajectory in void:
        assert (trajectory.void_reason, trajectory.ending) == (VoidReason.infrastructure, Ending.error)
        assert trajectory.reward is None
        assert trajectory.messages[-1].role is Role.system
        assert reason in trajectory.messages[-1].content
    assert complete(trajectories)
    assert plain([each for chunk in todo for each in journal.read(todo)[chunk.number]]) == plain(played)


@pytest.mark.parametrize(
    ("trouble", "error", "words"),
    [(stations.mendable, StageError, "weights: are missing"), (stations.defect, RuntimeError, "ZeroDivisionError")],
)
def test_an_exception_in_a_worker_ends_the_whole(
    trouble: Callable[[], None], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        Crew(partial(stations.open_station, trouble), 2).play(stations.work(tasks()), Journal(tmp_path, "expert"))
    assert multiprocessing.active_children() == []


def test_workers_that_do_not_start_are_not_tried_for_ever(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="3 workers in a row failed to start"):
        Crew(stations.closed_station, 2).play(stations.work(tasks()), Journal(tmp_path, "expert"))
