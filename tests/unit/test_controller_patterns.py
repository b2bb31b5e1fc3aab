"""Planted recurring errors are found under the right condition, whatever the order of the episodes; noise is not."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from sentinel.controller.attribution import diagnose
from sentinel.controller.patterns import find_patterns, profiles_of
from sentinel.env.traits import characteristics
from sentinel.proposer.conditions import conditions
from sentinel.records import Ending, LabelKind, Pattern, PatternStatus, Task, Trajectory
from sentinel.seeds import generator
from tests.unit.controller_cases import CONFIRM, DENY, DONE, Move, expert, made, play, reads, replacing, writes

NAMES = [c.condition for c in conditions() if c.condition != "cancel/declined"]


def patterns(batch: Sequence[Trajectory], min_support: int = 2) -> list[Pattern]:
    return find_patterns(profiles_of(diagnose(batch)), min_support)


def without_last_write(task: Task) -> list[Move]:
    return replacing(expert(task), writes(task)[-1])


def refusing(task: Task) -> list[Move]:
    return [*reads(task), DENY]


@cache
def both(name: str, number: int, fault: Callable[[Task], list[Move]]) -> tuple[Trajectory, Trajectory]:
    """An episode done right, and the same one with a fault."""
    task = made(name, number)
    return play(task, expert(task)), play(task, fault(task))


def batch(
    faulty: Callable[[str, int], Callable[[Task], list[Move]] | None], tasks: int = 2, trials: int = 4
) -> list[Trajectory]:
    """Every condition played; `faulty(condition, trial)` says which fault is made, if any."""
    episodes = []
    for name in NAMES:
        for number in range(tasks):
            for trial in range(trials):
                fault = faulty(name, trial)
                played = both(name, number, fault)[1] if fault else play_right(name, number)
                episodes.append(played.model_copy(update={"trial": trial}))
    return episodes


@cache
def play_right(name: str, number: int) -> Trajectory:
    return play(made(name, number), expert(made(name, number)))


@cache
def planted() -> tuple[Trajectory, ...]:
    """Half of `cancel/no_reason` lacks the cancellation, and most of `return/original` is refused."""

    def faulty(name: str, trial: int) -> Callable[[Task], list[Move]] | None:
        if name == "cancel/no_reason" and trial % 2:
            return without_last_write
        return refusing if name == "return/original" and trial else None

    return tuple(batch(faulty))


def test_planted_patterns_are_found_with_their_conditions() -> None:
    found = {(p.category, p.tools, tuple(p.condition.items())): p.support for p in patterns(planted())}
    assert found == {
        (LabelKind.missing_write, ("cancel_pending_order",), (("condition", "cancel/no_reason"),)): 4,
        (LabelKind.false_refusal, ("return_delivered_order_items",), (("condition", "return/original"),)): 6,
    }


def test_a_pattern_is_described_contrasted_and_cited() -> None:
    pattern = next(p for p in patterns(planted()) if p.category is LabelKind.missing_write)
    assert pattern.contrast.model_dump() == {
        "failures": 4,
        "episodes": 8,
        "failures_elsewhere": 0,
        "episodes_elsewhere": 8 * (len(NAMES) - 1),
        "otherwise": 0,
    }
    assert pattern.status is PatternStatus.new
    assert [e.trajectory for e in pattern.evidence] == sorted(e.trajectory for e in pattern.evidence)
    assert pattern.description == (
        "The agent leaves out `cancel_pending_order` when condition = cancel/no_reason: "
        f"4 of 8 episodes, against 0 of {8 * (len(NAMES) - 1)} elsewhere."
    )


@given(st.permutations(range(len(NAMES) * 8)))
def test_the_order_of_the_episodes_does_not_matter(order: list[int]) -> None:
    episodes = planted()
    assert patterns([episodes[place] for place in order]) == patterns(episodes)


def test_an_error_of_a_whole_family_has_the_family_as_its_condition() -> None:
    found = patterns(batch(lambda name, trial: without_last_write if name.startswith("cancel/") and trial else None))
    assert [p.condition for p in found] == [{"family": "cancel"}]


def test_an_error_that_takes_two_knobs_has_both() -> None:
    def only_by_name(episodes: Sequence[Trajectory]) -> list[Trajectory]:
        """Keep the faults where the user is identified by name; play the others right."""
        kept = []
        for played in episodes:
            knobs = played.task.knobs | {"identity": "name" if played.trial % 2 else "email"}
            struck = knobs["family"] == "exchange" and knobs["identity"] == "name"
            right = play_right(str(knobs["condition"]), int(played.task.id.rpartition("-")[2]))
            source = played if struck else right
            task = source.task.model_copy(update={"knobs": knobs})
            kept.append(source.model_copy(update={"task": task, "trial": played.trial}))
        return kept

    wrong = batch(lambda name, trial: without_last_write if name.startswith("exchange/") else None)
    assert [p.condition for p in patterns(only_by_name(wrong))] == [{"family": "exchange", "identity": "name"}]


def test_a_cause_that_hits_two_conditions_gives_a_pattern_for_each_it_separates() -> None:
    hit = {"cancel/no_reason", "cancel/no_order"}
    found = patterns(batch(lambda name, trial: without_last_write if name in hit else None))
    covered = sum(p.support for p in found)
    assert covered == 16
    assert all(p.contrast.failures > p.contrast.episodes / 2 for p in found)


def planted_where(family: str, payment: str, seed: int) -> tuple[list[Trajectory], set[str]]:
    """A random batch in which a family's last write is mostly missing where that is the means of payment; its tasks."""
    rng = generator("planted", seed)
    episodes, struck = [], set()
    for name in (name for name in NAMES if writes(made(name, 0))):
        for number in range(4):
            known = characteristics(made(name, number))
            inside = (known["family"], known.get("payment")) == (family, payment)
            struck |= {made(name, number).id} if inside else set()
            for trial in range(3):
                right, wrong = both(name, number, without_last_write)
                played = wrong if rng.random() < (0.8 if inside else 0.03) else right
                episodes.append(played.model_copy(update={"trial": trial}))
    return episodes, struck


def cells() -> list[tuple[str, str]]:
    """Families and means of payment that some of a family's tasks have, but not all."""
    known = [characteristics(made(name, number)) for name in NAMES for number in range(4) if writes(made(name, 0))]
    pairs = Counter((str(k["family"]), str(k.get("payment", ""))) for k in known)
    families = Counter(str(k["family"]) for k in known)
    usable = (pair for pair, n in pairs.items() if 3 <= n <= families[pair[0]] - 3 and all(pair))
    return sorted(pair for pair in usable if pair[0] != "two")  # whose last writes are of several tools


def test_a_condition_on_what_the_records_tell_is_found_in_random_batches() -> None:
    hits = spurious = 0
    for seed in range(20):
        family, payment = cells()[seed % len(cells())]
        episodes, struck = planted_where(family, payment, seed)
        explained = [
            {e.task.id for e in episodes if all(characteristics(e.task).get(k) == v for k, v in p.condition.items())}
            for p in patterns(episodes)
        ]
        hits += struck in explained
        spurious += len([tasks for tasks in explained if not tasks & struck])
    assert hits >= 18
    assert spurious <= 2


def test_an_error_everywhere_at_random_gives_hardly_a_pattern() -> None:
    spurious = sum(bool(patterns(planted_where("none", "none", seed)[0])) for seed in range(20))
    assert spurious <= 1


@cache
def too_slow(name: str, number: int) -> Trajectory:
    task = made(name, number)
    return play(task, [*reads(task), CONFIRM], ending=Ending.out_of_turns)


def test_scattered_failures_have_no_condition() -> None:
    spurious = 0
    for seed in range(20):
        rng = generator("noise", seed)
        episodes = [
            (too_slow if rng.random() < 0.08 else play_right)(name, number).model_copy(update={"trial": trial})
            for name in NAMES
            for number in range(2)
            for trial in range(4)
        ]
        spurious += any(pattern.condition for pattern in patterns(episodes))
    assert spurious <= 1


def test_support_below_the_minimum_is_no_pattern() -> None:
    assert patterns(planted(), min_support=7) == []
    assert [p.support for p in patterns(planted(), min_support=5)] == [6]


def test_successes_only_and_voids_only_give_no_patterns() -> None:
    assert patterns([play_right(name, 0) for name in NAMES]) == []
    assert patterns([]) == []


def test_tasks_without_knobs_give_a_pattern_without_a_condition() -> None:
    task = made("cancel/plain").model_copy(update={"knobs": {}})
    episodes = [play(task, [*reads(task), CONFIRM, DONE], trial=trial) for trial in range(6)]
    (pattern,) = patterns(episodes)
    assert (pattern.condition, pattern.support) == ({}, 6)
    assert pattern.description == "The agent leaves out `cancel_pending_order`: 6 of 6 episodes."


def test_a_known_condition_is_kept_where_it_explains_nearly_as_much() -> None:
    def faulty(name: str, trial: int) -> Callable[[Task], list[Move]] | None:
        return without_last_write if name == "cancel/no_reason" else None

    profiles = profiles_of(diagnose(batch(faulty)))
    (first,) = find_patterns(profiles, 2)
    known = first.model_copy(update={"condition": {"withheld": "reason"}})
    (second,) = find_patterns(profiles, 2, [known])
    assert (first.condition, second.condition) == ({"condition": "cancel/no_reason"}, {"withheld": "reason"})
    assert first.id != second.id
