"""The reward: tau2's verdict on end states and on what was said."""

import pytest

from sentinel.env.overlay import World
from sentinel.env.scoring import gold_delta, score
from sentinel.env.tau2 import benchmark_tasks
from sentinel.records import Origin, OriginKind, Scenario, Task, ToolCall


def talk(communicate: tuple[str, ...] = (), avoid: tuple[str, ...] = ()) -> Task:
    return Task(
        id="t",
        world=World.from_data({}).hash,
        origin=Origin(kind=OriginKind.general),
        scenario=Scenario(reason_for_call=""),
        gold=(),
        communicate=communicate,
        avoid=avoid,
    )


@pytest.mark.parametrize(
    ("needed", "texts", "told"),
    [
        ((), [], 1.0),
        (("44.08",), [], 0.0),
        (("44.08",), ["It costs $44.08."], 1.0),
        (("1093.34",), ["You get $1,093.34 back."], 1.0),
        (("Tactile",), ["a TACTILE one"], 1.0),
        (("10", "blue"), ["10 of them", "all blue"], 1.0),
        (("10", "blue"), ["10 of them"], 0.0),
        (("10 blue",), ["10", "blue"], 0.0),
        (("1,000",), ["1,000"], 0.0),  # tau2 removes commas from messages, but not from what is looked for
    ],
)
def test_communication_is_checked_as_by_tau2(needed: tuple[str, ...], texts: list[str], told: float) -> None:
    reward = score(talk(needed), {}, {}, texts)
    assert (reward.db, reward.communicate, reward.total) == (1.0, told, told)


def test_a_forbidden_statement_fails_the_episode() -> None:
    task = talk(avoid=("I cannot, sorry",))
    assert score(task, {}, {}, ["I CANNOT, sorry."]).total == 0.0
    assert score(task, {}, {}, ["I can."]).total == 1.0


def test_numbers_of_other_type_are_another_state() -> None:
    assert score(talk(), {"orders": {"a": {"x": 0}}}, {"orders": {"a": {"x": 0.0}}}, []).db == 0.0
    assert score(talk(), {"orders": {"a": {"x": 1, "y": 2}}}, {"orders": {"a": {"y": 2, "x": 1}}}, []).db == 1.0


def benchmark(number: str) -> Task:
    return next(task for task in benchmark_tasks("tau2-base") if task.id == number)


def test_gold_writes_that_fail_are_swallowed() -> None:
    world = World.tau2()
    assert gold_delta(world, benchmark("105")) == {}, "its only write is refused: the gift card is too small"
    session = world.open()
    assert [call.name for call in benchmark("12").gold if session.call(call).error] == ["return_delivered_order_items"]
    assert gold_delta(world, benchmark("12")) == session.delta()


def test_the_order_of_modified_items_matters_as_in_tau2() -> None:
    world, task = World.tau2(), benchmark("20")
    lists = ("item_ids", "new_item_ids")

    def reverse(call: ToolCall) -> ToolCall:
        turned = {name: value[::-1] if name in lists else value for name, value in call.arguments.items()}
        return call.model_copy(update={"arguments": turned})

    session = world.open()
    results = [session.call(reverse(call)) for call in task.gold]
    assert not any(result.error for result in results)
    assert score(task, session.delta(), gold_delta(world, task), task.communicate).total == 0.0
