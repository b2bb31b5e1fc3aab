"""Shares, weights, retirement, and independence of the order in which tasks are given."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sentinel.curriculum import FLOOR, Curriculum
from sentinel.records import OriginKind, Task
from sentinel.seeds import generator
from sentinel.spec.models import Curriculum as Settings
from tests.unit.solver_toys import task


def general(count: int = 40) -> list[Task]:
    return [task(f"g{n}") for n in range(count)]


def targeted(count: int, condition: str = "hard", name: str = "t") -> list[Task]:
    return [task(f"{name}{n}", OriginKind.targeted, condition) for n in range(count)]


def kinds(tasks: list[Task]) -> Counter[str]:
    return Counter(str(each.origin.kind) for each in tasks)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.3, 5), (0.5, 8), (1.0, 16)])
def test_the_targeted_share(share: float, expected: int) -> None:
    curriculum = Curriculum(general(), targeted(30), Settings(targeted_share=share))
    drawn = curriculum.draw(16, generator(1))
    assert len(drawn) == len({each.id for each in drawn}) == 16
    assert kinds(drawn)["targeted"] == expected


def test_what_there_is_too_little_of_the_other_kind_fills() -> None:
    few = Curriculum(general(), targeted(3), Settings(targeted_share=0.5)).draw(16, generator(1))
    none = Curriculum(general(), [], Settings(targeted_share=0.5)).draw(16, generator(1))
    only = Curriculum([], targeted(5), Settings(targeted_share=0.5)).draw(16, generator(1))
    assert kinds(few) == {"targeted": 3, "general": 13}
    assert kinds(none) == {"general": 16}
    assert kinds(only) == {"targeted": 16}
    assert max(Counter(each.id for each in only).values()) == 4


def test_general_tasks_are_drawn_uniformly_whatever_their_rate() -> None:
    curriculum = Curriculum(general(10), [], Settings())
    for _ in range(20):
        curriculum.observe("g0", 8, 8)
    counts = Counter(each.id for n in range(1000) for each in curriculum.draw(2, generator(n)))
    assert min(counts.values()) > 150
    assert max(counts.values()) < 250


def test_targeted_tasks_are_drawn_by_what_they_can_teach() -> None:
    even, never = targeted(10, "even", "e"), targeted(10, "never", "n")
    curriculum = Curriculum(general(), even + never, Settings(targeted_share=0.5))
    for each, other in zip(even[:5], never[:5], strict=True):
        for _ in range(10):
            curriculum.observe(each.id, 4, 8)
            curriculum.observe(other.id, 0, 8)
    drawn = Counter(
        str(each.knobs["condition"])
        for n in range(500)
        for each in curriculum.draw(4, generator(n))
        if each.origin.kind is OriginKind.targeted
    )
    assert drawn["even"] / drawn["never"] == pytest.approx(0.25 / FLOOR, rel=0.35)


def test_a_task_never_tried_is_judged_by_its_condition() -> None:
    tasks = targeted(10)
    curriculum = Curriculum([], tasks, Settings())
    assert curriculum.rate(tasks[9]) == 0.5
    for each in tasks[:5]:
        curriculum.observe(each.id, 1, 8)
    assert curriculum.rate(tasks[9]) == pytest.approx(0.125, abs=0.1)
    curriculum.observe(tasks[9].id, 8, 8)
    assert curriculum.rate(tasks[9]) > 0.5


def test_old_outcomes_fade() -> None:
    (one,) = targeted(1)
    curriculum = Curriculum([], [one], Settings())
    for outcome in [0] * 20 + [8] * 20:
        curriculum.observe(one.id, outcome, 8)
    assert curriculum.rate(one) > 0.85


def test_solved_tasks_retire_and_leave_the_pool_but_are_reviewed() -> None:
    easy, hard = targeted(20, "easy", "e"), targeted(20, "hard", "h")
    curriculum = Curriculum(general(), easy + hard, Settings(targeted_share=0.5, retire_above=0.9))
    for each in easy:
        for _ in range(4):
            curriculum.observe(each.id, 8, 8)
    assert all(curriculum.retired(each) for each in easy)
    assert {each.id for each in curriculum.pool()} == {each.id for each in general() + hard}
    drawn = Counter(each.id[0] for n in range(500) for each in curriculum.draw(16, generator(n)))
    assert drawn["g"] == 500 * 8
    assert 0.02 < drawn["e"] / (drawn["e"] + drawn["h"]) < 0.08


def test_a_retired_task_that_is_forgotten_comes_back() -> None:
    (one,) = targeted(1)
    curriculum = Curriculum(general(), [one], Settings(retire_above=0.9))
    for _ in range(6):
        curriculum.observe(one.id, 8, 8)
    assert curriculum.retired(one)
    curriculum.observe(one.id, 1, 8)
    assert not curriculum.retired(one)


def test_the_order_of_the_tasks_does_not_matter() -> None:
    tasks, others = general(), targeted(20)
    shuffled = np.random.default_rng(0).permutation(len(tasks))
    one = Curriculum(tasks, others, Settings())
    other = Curriculum([tasks[n] for n in shuffled], others[::-1], Settings())
    for curriculum in (one, other):
        curriculum.observe("t3", 5, 8)
    assert [each.id for each in one.draw(24, generator(3))] == [each.id for each in other.draw(24, generator(3))]
    assert one.pool() == other.pool()


def test_the_state_restores_exactly() -> None:
    one = Curriculum(general(), targeted(20), Settings())
    rng = np.random.default_rng(1)
    for _ in range(50):
        one.observe(f"t{rng.integers(20)}", int(rng.integers(9)), 8)
    other = Curriculum(general(), targeted(20), Settings(), state=one.state())
    assert other.state() == one.state()
    assert [each.id for each in other.draw(16, generator(5))] == [each.id for each in one.draw(16, generator(5))]


def test_a_group_of_void_episodes_teaches_nothing() -> None:
    curriculum = Curriculum(general(), targeted(2), Settings())
    before = curriculum.state()
    curriculum.observe("t0", 0, 0)
    assert curriculum.state() == before


def test_two_tasks_with_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="same id"):
        Curriculum(general(), [task("g0", OriginKind.targeted)], Settings())
