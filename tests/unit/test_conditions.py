"""The table of conditions, and that a constraint on knobs finds the rows it means."""

from __future__ import annotations

from collections import Counter

import pytest

from sentinel.env.overlay import WRITE_TOOLS
from sentinel.proposer.conditions import conditions, matching
from sentinel.proposer.seed import natural_mix
from sentinel.spec.warmup import SKILLS
from tests.unit.builders import CONDITIONS, made

FAMILIES = {"cancel", "address", "user_address", "payment", "items", "return", "exchange", "refuse", "transfer", "two"}


def test_names_are_unique_and_begin_with_their_family() -> None:
    assert len(CONDITIONS) == len(conditions()) == 29
    assert {condition.family for condition in conditions()} == FAMILIES
    assert all(name.startswith(f"{condition.family}/") for name, condition in CONDITIONS.items())


def test_every_skill_that_a_spec_may_weaken_has_conditions_and_no_other() -> None:
    assert {condition.skill for condition in conditions()} == {*SKILLS, "base"}


def test_the_conditions_take_every_write_tool() -> None:
    used = {call.name for name in CONDITIONS for call in made(name).gold}
    assert used >= WRITE_TOOLS | {"transfer_to_human_agents"}


def test_a_condition_that_is_withheld_asks_and_an_obstacle_refuses() -> None:
    for condition in conditions():
        assert (condition.withheld != "none") == (condition.skill == "ask")
        assert (condition.obstacle != "none") == (condition.family == "refuse") == (condition.skill == "refuse")
        assert (len(condition.requests) == 2) == (condition.family == "two")


def test_matching_finds_what_agrees_with_every_knob() -> None:
    assert [c.condition for c in matching({"condition": "cancel/no_reason"})] == ["cancel/no_reason"]
    assert {c.condition for c in matching({"family": "cancel", "skill": "ask"})} == {
        "cancel/no_reason",
        "cancel/no_order",
        "cancel/no_identity",
    }
    assert matching({}) == list(conditions())
    assert matching({"family": "cancel", "skill": "refuse"}) == []
    assert [c.condition for c in matching({"items": 2})] == ["return/two_items", "exchange/two_items"]
    assert [c.condition for c in matching({"declined": True})] == ["cancel/declined"]
    assert {c.family for c in matching({"requests": 2})} == {"two"}


def test_knobs_that_only_a_task_has_are_left_to_the_builder() -> None:
    assert matching({"family": "transfer", "identity": "name"}) == matching({"family": "transfer"})


def test_a_tasks_knobs_are_those_of_its_condition_and_more() -> None:
    for name, condition in CONDITIONS.items():
        knobs = made(name).knobs
        assert condition.knobs().items() <= knobs.items()
        assert knobs["identity"] in ("email", "name")
        assert [c.condition for c in matching(knobs)] == [name]


@pytest.mark.parametrize("count", [1, 7, 29, 58, 96, 512])
def test_the_natural_mix_is_exact(count: int) -> None:
    mix = Counter(condition.condition for condition in natural_mix(count, conditions()))
    assert sum(mix.values()) == count
    total = sum(condition.weight for condition in conditions())
    for condition in conditions():
        assert abs(mix[condition.condition] - count * condition.weight / total) < 1
