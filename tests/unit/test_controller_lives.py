"""What becomes of a known pattern: found again, under another condition, rarer, gone, or not to be told."""

from collections.abc import Mapping

import pytest

from sentinel.controller.history import History
from sentinel.controller.lives import age, record
from sentinel.controller.patterns import Group, Profile, find_patterns
from sentinel.records import Attribution, Failure, Label, LabelKind, Party, Pattern, PatternStatus, Tally

VARIANT = Label(kind=LabelKind.wrong_argument, turn=5, tool="modify_pending_order_items", argument="new_item_ids")
REFUSAL = Label(kind=LabelKind.false_refusal, turn=3, tool="modify_pending_order_items")
PLAIN, NAMELESS, OTHER = "items/plain", "items/no_identity", "return/named"
ALL = {PLAIN: 0, "items/two": 0, NAMELESS: 0, OTHER: 0, "cancel/plain": 0}
EPISODES = 28


def failure(condition: str, label: Label, number: int) -> Failure:
    task = f"{condition}-{label.kind}-{number}"
    return Failure(
        trajectory=f"{task}#0",
        task=task,
        trial=0,
        knobs=knobs(condition),
        labels=(label,),
        decisive=0,
        attribution=Attribution(party=Party.agent, reason=""),
    )


def knobs(condition: str) -> dict[str, str | int | bool]:
    return {"condition": condition, "family": condition.partition("/")[0]}


def batch(rates: Mapping[str, int], otherwise: Mapping[str, int] | None = None, **episodes: int) -> list[Profile]:
    """Every condition, with so many wrong variants, and so many false refusals in place of them."""
    found = []
    for condition in ALL:
        failures = {}
        for label, counts in ((VARIANT, rates), (REFUSAL, otherwise or {})):
            if number := counts.get(condition, 0):
                failures[Group.of(label)] = tuple(failure(condition, label, each) for each in range(number))
        found.append(Profile(knobs(condition), episodes.get(condition.replace("/", "_"), EPISODES), failures))
    return found


def live(*batches: list[Profile]) -> tuple[list[Pattern], History]:
    """The patterns after the last of these diagnoses, and what is remembered."""
    history = History(iteration=0, tally=Tally(requested=0, kept=0), samples=(), lives=())
    patterns: list[Pattern] = []
    for iteration, profiles in enumerate(batches, 1):
        history = history.model_copy(update={"iteration": iteration})
        known = [life.pattern for life in history.lives]
        patterns = age(history, find_patterns(profiles, 2, known), profiles, 2)
        history = record(history, patterns)
    return patterns, history


def test_a_pattern_that_is_found_under_a_wider_condition_goes_on() -> None:
    narrow, wide = batch({PLAIN: 23}), batch({PLAIN: 15, "items/two": 7, NAMELESS: 7})
    (whole, part), history = live(narrow, wide)
    assert (whole.condition, whole.status) == ({"family": "items"}, PatternStatus.persistent)
    assert (part.condition, part.status) == ({"condition": PLAIN}, PatternStatus.absorbed)
    assert (whole.related, part.related) == ((part.id,), (whole.id,))
    assert (part.contrast.failures, part.contrast.episodes, part.evidence, part.found) == (15, EPISODES, (), False)
    lives = {life.pattern.id: life for life in history.lives}
    assert (lives[whole.id].seen, lives[part.id].seen) == ((1, 2), (1,))


def test_an_error_that_was_elsewhere_before_is_new() -> None:
    (new, old), _ = live(batch({PLAIN: 20}), batch({OTHER: 20}))
    assert (new.condition["condition"], new.status, new.related) == (OTHER, PatternStatus.new, ())
    assert (old.condition["condition"], old.status) == (PLAIN, PatternStatus.resolved)


def test_what_strikes_too_rarely_for_a_pattern_is_measured_and_called_rare() -> None:
    (pattern,), history = live(batch({PLAIN: 26}), batch({PLAIN: 2, OTHER: 1, "cancel/plain": 2}))
    assert (pattern.status, pattern.support, pattern.contrast.failures) == (PatternStatus.rare, 2, 2)
    assert pattern.description.endswith("2 of 28 episodes, against 3 of 112 elsewhere.")
    (life,) = history.lives
    assert life.pattern == pattern
    assert life.struck and (life.struck.failures, life.struck.episodes) == (26, EPISODES)


@pytest.mark.parametrize(
    ("failures", "otherwise", "episodes", "status"),
    [
        (0, 0, 28, PatternStatus.resolved),
        (1, 0, 16, PatternStatus.resolved),
        (1, 0, 4, PatternStatus.unclear),
        (0, 28, 28, PatternStatus.unclear),
        (0, 0, 0, PatternStatus.unclear),
    ],
)
def test_only_enough_episodes_that_could_show_it_resolve_a_pattern(
    failures: int, otherwise: int, episodes: int, status: PatternStatus
) -> None:
    patterns, _ = live(batch({PLAIN: 20}), batch({PLAIN: failures}, {PLAIN: otherwise}, items_plain=episodes))
    known = next(pattern for pattern in patterns if pattern.category is LabelKind.wrong_argument)
    assert known.status is status
    assert (known.contrast.failures, known.contrast.otherwise) == (failures, otherwise)


def test_what_chance_would_spare_is_not_called_resolved() -> None:
    """At 4 of 28, nine episodes without it are no news."""
    (pattern,), _ = live(batch({PLAIN: 4}), batch({}, items_plain=9))
    assert pattern.status is PatternStatus.rare


def test_a_resolved_pattern_stays_so_until_it_is_found_again() -> None:
    gone, back = batch({}), batch({PLAIN: 9})
    (after,), _ = live(batch({PLAIN: 20}), gone, batch({}, items_plain=0))
    assert after.status is PatternStatus.resolved
    (again,), history = live(batch({PLAIN: 20}), gone, gone, back)
    assert (again.status, history.lives[0].seen) == (PatternStatus.regressed, (1, 4))


def test_a_row_of_a_report_has_the_error_without_the_counts() -> None:
    (pattern,), _ = live(batch({PLAIN: 20}))
    assert pattern.error == (
        "The agent calls `modify_pending_order_items` with a wrong `new_item_ids` when condition = items/plain"
    )
    assert pattern.description == f"{pattern.error}: 20 of 28 episodes, against 0 of 112 elsewhere."
