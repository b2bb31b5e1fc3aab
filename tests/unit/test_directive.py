"""What a directive asks for can be executed: the Proposer makes tasks that have all of it, or says that it cannot."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sentinel.controller.attribution import diagnose
from sentinel.controller.directive import constraints_of
from sentinel.controller.patterns import find_patterns, profiles_of
from sentinel.env.traits import characteristics, in_play
from sentinel.proposer.gates import Bench
from sentinel.proposer.leakage import manifest
from sentinel.proposer.makers import PlainTasks
from sentinel.proposer.propose import generating, propose, targets
from sentinel.proposer.trajectory import synthetic_scenes
from sentinel.records import Constraints, Directive, Quota
from sentinel.seeds import generator
from sentinel.spec.models import Proposer, SyntheticWorld
from tests.unit.controller_cases import DENY, empty_world, expert, made, play, reads, replacing, writes

SETTINGS = Proposer(tasks=14, explore_share=0.0)


def order(*constraints: Constraints) -> Directive:
    quotas = tuple(
        Quota(pattern=f"p{number}", tasks=6, constraints=one, instruction="") for number, one in enumerate(constraints)
    )
    return Directive(iteration=1, quotas=quotas, explore=2)


CASES: Mapping[str, Constraints] = {
    "a tool": Constraints(tools=("return_delivered_order_items",)),
    "two tools": Constraints(tools=("cancel_pending_order", "return_delivered_order_items")),
    "a tempting tool": Constraints(tools=("cancel_pending_order",), knobs={"skill": "refuse"}),
    "a transfer": Constraints(tools=("transfer_to_human_agents",)),
    "a state": Constraints(state={"payment": "gift_card"}),
    "several orders": Constraints(state={"orders": 3}, knobs={"identity": "name"}),
    "a knob": Constraints(knobs={"withheld": "reason"}),
    "everything": Constraints(
        tools=("exchange_delivered_order_items",), state={"payment": "credit_card"}, knobs={"items": 2}
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_proposer_obeys_the_constraints(name: str) -> None:
    wanted, scenes = CASES[name], synthetic_scenes(empty_world(), SyntheticWorld(type="synthetic", ids="atomic"))
    bench = Bench(empty_world(), manifest([], empty_world(), entities=False))
    aims = targets(SETTINGS, order(wanted), [], [], generator(1))
    proposal = propose(aims, generating(PlainTasks(scenes)), bench, (7, "propose", 1))
    aimed = [task for task in proposal.tasks if task.origin.pattern == "p0"]
    assert len(aimed) == 6, proposal.tally
    for task in aimed:
        assert in_play(task) >= set(wanted.tools)
        assert wanted.values.items() <= characteristics(task).items()


def test_what_cannot_be_had_is_refused_with_what_was_wanted() -> None:
    scenes = synthetic_scenes(empty_world(), SyntheticWorld(type="synthetic", ids="atomic"))
    bench = Bench(empty_world(), manifest([], empty_world(), entities=False))
    wanted = Constraints(tools=("cancel_pending_order",), knobs={"family": "address"})
    proposal = propose(
        targets(SETTINGS, order(wanted), [], [], generator(1)), generating(PlainTasks(scenes)), bench, (7, "propose", 1)
    )
    assert {task.origin.pattern for task in proposal.tasks} == {None}
    assert "'cancel_pending_order': True" in proposal.dropped[0].detail


def constraints_for(*names: str, refuse: bool = True) -> list[Constraints]:
    """Of the patterns of an agent that leaves out the last write (or refuses it) on all tasks of these conditions."""
    played = []
    for name in names:
        for number in range(4):
            task = made(name, number)
            said = [DENY] if refuse else []
            moves = replacing(expert(task), writes(task)[-1], *said) if writes(task) else [*reads(task)]
            played.append(play(task, moves))
    for name in ("address/plain", "payment/plain"):
        played += [play(made(name, number), expert(made(name, number))) for number in range(4)]
    patterns = find_patterns(profiles_of(diagnose(played)), 2)
    return [constraints_of(pattern) for pattern in patterns]


def test_a_patterns_tool_is_asked_for_where_all_its_tasks_bring_it_into_play() -> None:
    (found,) = constraints_for("return/original", refuse=False)
    assert found.tools == ("return_delivered_order_items",)
    assert found.values.items() <= characteristics(made("return/original")).items()


def test_conditions_on_records_and_knobs_of_difficulty_are_told_apart() -> None:
    task = made("return/original")
    pattern = find_patterns(
        profiles_of(diagnose([play(task, replacing(expert(task), writes(task)[-1]), trial=n) for n in range(4)])), 2
    )[0]
    mixed = pattern.model_copy(update={"condition": {"payment": "paypal", "twins": True, "withheld": "none"}})
    assert constraints_of(mixed).state == {"payment": "paypal", "twins": True}
    assert constraints_of(mixed).knobs == {"withheld": "none"}
    assert constraints_of(mixed).values == mixed.condition
