"""Alarms: each rings for its own figure and says what to do; a sabotaged training ends no worse than it began."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sentinel.curriculum import Curriculum
from sentinel.rollout.episode import Assignment, Played
from sentinel.solver.alarms import MEANING, STOPPING, Alarm
from sentinel.solver.checkpoint import Checkpoints
from sentinel.solver.guards import Guards, alarms
from sentinel.solver.metrics import StepMetrics
from sentinel.solver.trainer import FIRST_TRIAL, Trainer
from sentinel.solver.update import Updater
from sentinel.spec.models import Curriculum as CurriculumSettings
from sentinel.spec.trainer import Alarms
from sentinel.spec.trainer import Trainer as Settings
from tests.unit.solver_toys import Log, WordGame, task, tiny_llama, trajectory

DEV = [task(f"d{n}") for n in range(24)]


def step(number: int = 1, **changes: object) -> StepMetrics:
    """An unremarkable step, with changes."""
    figures = {"groups": 10, "informative": 5, "informative_share": 0.5, "targeted_share": 0.5, "episodes": 80}
    rates = {"refill": 0, "void": {}, "reward": 0.5, "success_rate": 0.5, "turns": 5.0, "tokens": 100.0}
    update = {"kl": 0.01, "entropy": 0.5, "ratio": 1.0, "ratio_off": 0.01}
    return StepMetrics.model_validate({"step": number} | figures | rates | update | changes)


def test_nothing_rings_for_an_unremarkable_run() -> None:
    assert alarms([step(1), step(2), step(3)], Alarms(), best=0.5) == ()


@pytest.mark.parametrize(
    ("changes", "alarm"),
    [
        ({"kl": 1.1}, Alarm.kl),
        ({"entropy": 0.04}, Alarm.entropy),
        ({"tokens": 301.0}, Alarm.length),
        ({"tokens": 33.0}, Alarm.length),
        ({"informative_share": 0.04}, Alarm.informative),
        ({"ratio_off": 0.51}, Alarm.ratio),
        ({"dev": 0.39}, Alarm.dev_drop),
        ({"collapsed": ("refuse/status",)}, Alarm.collapse),
    ],
)
def test_an_alarm_rings_for_its_figure_alone(changes: dict[str, object], alarm: Alarm) -> None:
    assert alarms([step(1), step(2, **changes)], Alarms(), best=0.5) == (alarm,)


def test_voids_ring_after_two_steps_running() -> None:
    many, few = {"void": {"infrastructure": 41}}, {"void": {"infrastructure": 40}}
    assert alarms([step(1, **many)], Alarms(), best=None) == ()
    assert alarms([step(1, **many), step(2, **few)], Alarms(), best=None) == ()
    assert alarms([step(1), step(2, **many), step(3, **many)], Alarms(), best=None) == (Alarm.void,)


def test_three_steps_without_information_ring() -> None:
    nothing = {"informative": 0, "informative_share": 0.0}
    steps = [step(1), step(2, **nothing), step(3, **nothing), step(4, **nothing)]
    assert alarms(steps[:3], Alarms(), best=None) == (Alarm.informative,)
    assert alarms(steps, Alarms(), best=None) == (Alarm.informative, Alarm.exhausted)


def test_a_lost_condition_rings_once_and_another_one_again() -> None:
    lost = [step(n, collapsed=names) for n, names in enumerate([(), ("a",), ("a",), ("a", "b")])]
    rang = [alarms(lost[:n], Alarms(), best=None) for n in (1, 2, 3, 4)]
    assert rang == [(), (Alarm.collapse,), (), (Alarm.collapse,)]


def test_a_solved_condition_that_is_lost_is_named_to_the_reader(tmp_path: Path) -> None:
    """The game is won for some steps, and then never again."""

    def won_then_lost(played: Played, assignment: Assignment) -> Played:
        won = assignment.trial % 8 < 7 and assignment.trial < FIRST_TRIAL + 100
        return Played(trajectory(assignment, won, "p"), played.samples)

    trainer, log = sabotaged(tmp_path, Sabotage(won_then_lost), 0.0001)
    metrics = trainer.train()
    assert metrics[-1].collapsed == ("plain",)
    assert any("alarm 'collapse' (plain): tasks of a condition that was solved fail again" in text for text in log.said)


def test_figures_that_are_not_there_ring_nothing() -> None:
    nothing = dict.fromkeys(("kl", "entropy", "ratio_off", "tokens", "dev"))
    assert alarms([step(1), step(2, **nothing)], Alarms(), best=0.5) == ()


@pytest.mark.parametrize("alarm", list(Alarm))
def test_every_alarm_says_what_to_do_and_some_end_the_run(alarm: Alarm) -> None:
    assert len(MEANING[alarm]) > 60
    guards = Guards(best_step=3)
    guards.heed([alarm])
    assert (guards.stop is not None) == (alarm in STOPPING)
    if guards.stop:
        assert alarm in guards.stop
        assert MEANING[alarm] in guards.stop
        assert "step 3" in guards.stop


def sabotaged(folder: Path, sabotage: Sabotage, rate: float) -> tuple[Trainer, Log]:
    model, log = tiny_llama(), Log()
    settings = Settings(steps=8, prompts_per_step=4, group_size=4, dev_every=2, learning_rate=rate, kl=0.001)
    curriculum = Curriculum([task(f"g{n}") for n in range(10)], [], CurriculumSettings())
    backend = Updater(model, settings)
    checkpoints = Checkpoints(folder, say=log.say)
    return Trainer(backend, "start", sabotage.over(model), curriculum, DEV, settings, (7, 1), checkpoints, log), log


class Sabotage:
    """The game, where the episodes of training (not those of the dev tasks) are tampered with."""

    def __init__(self, tamper: Callable[[Played, Assignment], Played]) -> None:
        self._tamper = tamper

    def over(self, model: object) -> Callable[..., list[Played]]:
        game = WordGame(model)

        def play(assignments: Sequence[Assignment], *, policy: str) -> list[Played]:
            played = game(assignments, policy=policy)
            if assignments[0].task in DEV:
                return played
            return [self._tamper(each, assignment) for each, assignment in zip(played, assignments, strict=True)]

        return play


def honest(played: Played, assignment: Assignment) -> Played:
    return played


def turned_round(played: Played, assignment: Assignment) -> Played:
    success = played.trajectory.reward is not None and played.trajectory.reward.db < 1.0
    return Played(trajectory(assignment, success, played.trajectory.policy), played.samples)


def mostly_void(played: Played, assignment: Assignment) -> Played:
    if assignment.trial % 5 < 3:
        return Played(trajectory(assignment, None, played.trajectory.policy), played.samples)
    return played


@pytest.mark.parametrize(
    ("tamper", "rate", "expected"),
    [
        (honest, 1.0, {Alarm.kl, Alarm.exhausted, Alarm.dev_drop}),
        (turned_round, 0.01, {Alarm.dev_drop}),
        (mostly_void, 0.01, {Alarm.void}),
    ],
    ids=["learning rate times 100", "reward turned round", "60% void"],
)
def test_a_sabotaged_run_stops_and_ends_no_worse_than_it_began(
    tamper: Callable[[Played, Assignment], Played], rate: float, expected: set[Alarm], tmp_path: Path
) -> None:
    trainer, log = sabotaged(tmp_path, Sabotage(tamper), rate)
    metrics = trainer.train()
    rang = {alarm for each in metrics for alarm in each.alarms} & STOPPING
    assert len(metrics) < 8
    assert rang
    assert rang <= expected
    assert any("Training ends" in text and f"alarm '{next(iter(rang))}'" in text for text in log.said)
    after = trainer._judge(99)
    start = metrics[0].dev_start
    assert start is not None
    assert after.value is not None
    assert after.value >= start
