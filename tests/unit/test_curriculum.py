"""Shares, weights, what rests and what comes back, the alarm, and independence of the order of the tasks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sentinel.artifacts import read_json, write_json
from sentinel.curriculum import Curriculum, Memory, Prompt, Standing
from sentinel.curriculum.curriculum import FLOOR
from sentinel.descent import Probed, Use, condition_of
from sentinel.records import OriginKind, Task
from sentinel.seeds import generator
from sentinel.spec.models import Curriculum as Settings
from tests.unit.solver_toys import task


def general(count: int = 40, condition: str = "plain", name: str = "g") -> list[Task]:
    return [task(f"{name}{n}", condition=condition) for n in range(count)]


def targeted(count: int, condition: str = "hard", name: str = "t") -> list[Task]:
    return [task(f"{name}{n}", OriginKind.targeted, condition) for n in range(count)]


def draw(curriculum: Curriculum, n: int, seed: int = 1) -> list[Task]:
    return [prompt.task for prompt in curriculum.draw(n, generator(seed))]


def many(curriculum: Curriculum, n: int = 16, times: int = 300) -> list[Prompt]:
    return [prompt for seed in range(times) for prompt in curriculum.draw(n, generator(seed))]


def kinds(tasks: list[Task]) -> Counter[str]:
    return Counter(str(each.origin.kind) for each in tasks)


def probed(each: Task, successes: int, trials: int = 4) -> Probed:
    return Probed(task=each.id, condition=condition_of(each), successes=successes, trials=trials)


def play(curriculum: Curriculum, tasks: list[Task], successes: int, rounds: int = 1) -> None:
    for _ in range(rounds):
        for each in tasks:
            curriculum.observe(each, successes, 8)


def standings(curriculum: Curriculum, tasks: list[Task]) -> set[Standing]:
    return {curriculum.standing(each) for each in tasks}


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.3, 5), (0.5, 8), (1.0, 16)])
def test_the_targeted_share(share: float, expected: int) -> None:
    drawn = draw(Curriculum(general(), targeted(30), Settings(targeted_share=share)), 16)
    assert len(drawn) == len({each.id for each in drawn}) == 16
    assert kinds(drawn)["targeted"] == expected


def test_what_there_is_too_little_of_the_other_kind_fills() -> None:
    settings = Settings(targeted_share=0.5)
    assert kinds(draw(Curriculum(general(), targeted(3), settings), 16)) == {"targeted": 3, "general": 13}
    assert kinds(draw(Curriculum(general(), [], settings), 16)) == {"general": 16}
    only = draw(Curriculum([], targeted(5), settings), 16)
    assert kinds(only) == {"targeted": 16}
    assert max(Counter(each.id for each in only).values()) == 4


def test_a_prompt_says_what_it_was_drawn_for_and_what_is_expected() -> None:
    curriculum = Curriculum(general(), targeted(30), Settings(targeted_share=0.5))
    prompts = curriculum.draw(16, generator(1))
    assert [prompt.use for prompt in prompts] == [Use.targeted] * 8 + [Use.general] * 8
    assert {prompt.estimate for prompt in prompts} == {0.5}


def test_general_tasks_are_drawn_uniformly_whatever_their_rate() -> None:
    tasks = general(10)
    curriculum = Curriculum(tasks, [], Settings())
    play(curriculum, tasks[:1], 8, 20)
    counts = Counter(prompt.task.id for prompt in many(curriculum, 2, 1000))
    assert min(counts.values()) > 150
    assert max(counts.values()) < 250


def test_targeted_tasks_are_drawn_by_what_they_can_teach() -> None:
    even, hardly = targeted(10, "even", "e"), targeted(10, "hardly", "n")
    curriculum = Curriculum(general(), even + hardly, Settings(targeted_share=0.5, patience=1000, review_share=0.0))
    curriculum.learn(probed(each, 1) for each in hardly)
    play(curriculum, even[:5], 4, 10)
    play(curriculum, hardly[:5], 0, 10)
    drawn = Counter(condition_of(each.task) for each in many(curriculum, 4, 500) if each.use is Use.targeted)
    assert drawn["even"] / drawn["hardly"] == pytest.approx(0.25 / FLOOR, rel=0.35)


def test_a_task_never_tried_is_judged_by_its_condition() -> None:
    tasks = targeted(10)
    curriculum = Curriculum([], tasks, Settings())
    assert curriculum.rate(tasks[9]) == 0.5
    play(curriculum, tasks[:5], 1)
    assert curriculum.rate(tasks[9]) == pytest.approx(0.125, abs=0.1)
    play(curriculum, tasks[9:], 8)
    assert curriculum.rate(tasks[9]) > 0.5


def test_what_diagnosis_and_probes_have_shown_counts_like_training() -> None:
    tasks = targeted(20)
    curriculum, other = (Curriculum([], tasks, Settings()) for _ in range(2))
    curriculum.learn(probed(each, 2, 8) for each in tasks)
    play(other, tasks, 2)
    assert [curriculum.rate(each) for each in tasks] == [other.rate(each) for each in tasks]
    assert curriculum.rate(tasks[0]) == pytest.approx(0.25, abs=0.05)


def test_old_outcomes_fade() -> None:
    (one,) = targeted(1)
    curriculum = Curriculum([], [one], Settings())
    for outcome in [0] * 20 + [8] * 20:
        curriculum.observe(one, outcome, 8)
    assert curriculum.rate(one) > 0.85


def test_solved_tasks_retire_and_leave_the_pool_but_are_reviewed() -> None:
    easy, hard = targeted(20, "easy", "e"), targeted(20, "hard", "h")
    curriculum = Curriculum(general(), easy + hard, Settings(targeted_share=0.5, retire_above=0.9))
    play(curriculum, easy, 8, 4)
    assert standings(curriculum, easy) == {Standing.retired}
    assert {each.id for each in curriculum.pool()} == {each.id for each in general() + hard}
    assert curriculum.resting() == sorted(easy, key=lambda each: each.id)
    drawn = Counter(prompt.task.id[0] for prompt in many(curriculum, times=500))
    assert drawn["g"] == 500 * 8
    assert 0.02 < drawn["e"] / (drawn["e"] + drawn["h"]) < 0.08
    reviewed = {prompt.task.id[0] for prompt in many(curriculum, times=100) if prompt.use is Use.review}
    assert reviewed == {"e"}


def test_a_retired_task_that_is_forgotten_comes_back() -> None:
    (one,) = targeted(1)
    curriculum = Curriculum(general(), [one], Settings(retire_above=0.9))
    play(curriculum, [one], 8, 6)
    assert curriculum.standing(one) is Standing.retired
    curriculum.observe(one, 1, 8)
    assert curriculum.standing(one) is Standing.living


def test_a_new_task_is_played_before_it_retires_however_well_its_condition_does() -> None:
    old, (new,) = targeted(20), targeted(1, name="new")
    for burn_in, expected in ((0, Standing.retired), (1, Standing.living)):
        curriculum = Curriculum(general(), [*old, new], Settings(retire_above=0.9, burn_in=burn_in))
        play(curriculum, old, 8, 4)
        assert curriculum.standing(new) is expected
    curriculum.observe(new, 8, 8)
    assert curriculum.standing(new) is Standing.retired


def test_a_task_never_solved_is_parked_until_its_condition_is_solved_better() -> None:
    hard, others = targeted(4), targeted(8, name="o")
    curriculum = Curriculum(general(), others, Settings(least_gain=0.15, review_share=0.0))
    curriculum.learn([*(probed(each, 0) for each in hard), *(probed(each, 1) for each in others)])
    curriculum.admit(hard)
    assert standings(curriculum, hard) == {Standing.parked}
    assert not {prompt.task.id for prompt in many(curriculum, times=50)} & {each.id for each in hard}
    play(curriculum, others, 5, 2)
    assert standings(curriculum, hard) == {Standing.living}
    curriculum.observe(hard[0], 0, 8)
    assert curriculum.standing(hard[0]) is Standing.parked, "0 of 8 by the better policy as well"


def test_a_parked_task_is_reviewed_and_one_success_brings_it_back() -> None:
    (hard,), others = targeted(1), targeted(8, name="o")
    curriculum = Curriculum(general(), [hard, *others], Settings(review_share=0.2))
    curriculum.learn([probed(hard, 0)])
    assert hard.id in {prompt.task.id for prompt in many(curriculum, times=50) if prompt.use is Use.review}
    curriculum.observe(hard, 1, 8)
    assert curriculum.standing(hard) is Standing.living


def test_a_condition_that_training_does_not_move_is_dropped_and_comes_back_when_it_moves() -> None:
    stuck, moving = targeted(10, "stuck", "s"), targeted(10, "moving", "m")
    curriculum = Curriculum(general(), stuck + moving, Settings(patience=12, least_gain=0.15))
    for successes in (1, 2, 1, 2, 1, 2, 1, 2):
        play(curriculum, stuck[:2], successes)
    for successes in range(1, 8):
        play(curriculum, moving[:2], successes)
    assert standings(curriculum, stuck) == {Standing.stalled}
    assert standings(curriculum, moving) == {Standing.living}
    aimed = Counter(prompt.task.id[0] for prompt in many(curriculum, times=100) if prompt.use is Use.targeted)
    assert aimed.keys() == {"m"}
    play(curriculum, stuck[:4], 4, 2)
    assert standings(curriculum, stuck) == {Standing.living}


def test_patience_counts_training_and_not_what_only_looks() -> None:
    tasks = targeted(4)
    curriculum = Curriculum(general(), tasks, Settings(patience=4))
    for _ in range(20):
        curriculum.learn(probed(each, 1, 8) for each in tasks)
    assert standings(curriculum, tasks) == {Standing.living}
    play(curriculum, tasks, 1, 2)
    assert standings(curriculum, tasks) == {Standing.stalled}


def test_a_condition_solved_by_half_never_counts_as_stalled() -> None:
    tasks = targeted(4)
    curriculum = Curriculum(general(), tasks, Settings(patience=4))
    play(curriculum, tasks, 5, 20)
    assert standings(curriculum, tasks) == {Standing.living}


def test_a_solved_condition_that_is_lost_is_named_and_all_its_tasks_are_drawn_first() -> None:
    lost, hard = general(10, "lost", "l"), targeted(10)
    curriculum = Curriculum([*general(), *lost], hard, Settings(targeted_share=0.5))
    play(curriculum, lost, 8)
    assert curriculum.collapsed() == ()
    before = Counter(prompt.task.id[0] for prompt in many(curriculum))["l"]
    play(curriculum, lost, 0)
    assert curriculum.collapsed() == ("lost",)
    drawn = many(curriculum)
    assert Counter(prompt.task.id[0] for prompt in drawn)["l"] > 2 * before
    assert "l" in {prompt.task.id[0] for prompt in drawn if prompt.use is Use.targeted}
    assert all(len({p.task.id for p in curriculum.draw(16, generator(n))}) == 16 for n in range(50))
    play(curriculum, lost, 8, 2)
    assert curriculum.collapsed() == ()


def test_a_condition_that_never_was_solved_does_not_collapse() -> None:
    tasks = targeted(10)
    curriculum = Curriculum(general(), tasks, Settings())
    play(curriculum, tasks, 5)
    play(curriculum, tasks, 0)
    assert curriculum.collapsed() == ()


def test_the_injection_cap_holds_new_tasks_back_fairly_and_lets_them_in_later() -> None:
    first = [task(f"a{n}", OriginKind.targeted, "hard", "p1") for n in range(8)]
    second = [task(f"b{n}", OriginKind.targeted, "hard", "p2") for n in range(8)]
    settings = Settings(injection_cap=0.25)
    curriculum = Curriculum(general(40), [], settings)
    curriculum.admit(first + second)
    admitted = [each for each in first + second if curriculum.standing(each) is Standing.living]
    assert Counter(each.origin.pattern for each in admitted) == {"p1": 5, "p2": 5}
    assert curriculum.pool() == sorted([*general(40), *admitted], key=lambda each: (each.id[0] != "g", each.id))
    assert {p.task.id for p in many(curriculum, times=100) if p.use is not Use.general} <= {t.id for t in admitted}
    later = Curriculum(
        curriculum.pool()[:40], curriculum.pool()[40:] + curriculum.resting(), settings, curriculum.memory()
    )
    third = targeted(20)
    later.admit(third)
    assert standings(later, first + second) == {Standing.living}
    assert sum(later.standing(each) is Standing.living for each in third) == int(0.25 * 50) - 6


def test_the_order_of_the_tasks_does_not_matter() -> None:
    tasks, others = general(), targeted(20)
    shuffled = np.random.default_rng(0).permutation(len(tasks))
    one = Curriculum(tasks, others, Settings())
    other = Curriculum([tasks[n] for n in shuffled], others[::-1], Settings())
    for curriculum, new in ((one, targeted(30, name="n")), (other, targeted(30, name="n")[::-1])):
        curriculum.admit(new)
        curriculum.observe(others[3], 5, 8)
    assert draw(one, 24, 3) == draw(other, 24, 3)
    assert (one.pool(), one.resting()) == (other.pool(), other.resting())


def test_the_memory_restores_exactly(tmp_path: Path) -> None:
    tasks = targeted(20)
    one = Curriculum(general(), tasks, Settings())
    one.admit(targeted(20, name="n"))
    rng = np.random.default_rng(1)
    for _ in range(50):
        one.observe(tasks[rng.integers(20)], int(rng.integers(9)), 8)
    write_json(tmp_path / "memory.json", one.memory())
    memory = read_json(tmp_path / "memory.json", Memory)
    other = Curriculum(general(), [*tasks, *targeted(20, name="n")], Settings(), memory)
    assert other.memory() == one.memory()
    assert other.draw(16, generator(5)) == one.draw(16, generator(5))
    assert other.resting() == one.resting()


def test_a_group_of_void_episodes_teaches_nothing() -> None:
    curriculum = Curriculum(general(), targeted(2), Settings())
    before = curriculum.memory()
    curriculum.observe(targeted(1)[0], 0, 0)
    curriculum.learn([probed(targeted(1)[0], 0, 0)])
    assert curriculum.memory() == before


def test_two_tasks_with_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="same id"):
        Curriculum(general(), [task("g0", OriginKind.targeted)], Settings())
    with pytest.raises(ValueError, match="already: g0"):
        Curriculum(general(), [], Settings()).admit([task("g0", OriginKind.targeted)])
