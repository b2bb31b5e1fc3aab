"""What natural requests ask for goes together, and the reference agent reads the names that users give to things."""

from collections.abc import Iterator

import pytest

from sentinel.env.overlay import World
from sentinel.env.scoring import gold_delta
from sentinel.env.tau2 import benchmark_users
from sentinel.proposer.natural.dialogue import converse
from sentinel.proposer.natural.kinds import natural_kinds
from sentinel.proposer.natural.task import NaturalTasks, shared_people
from sentinel.proposer.natural.understood import matching_orders
from sentinel.proposer.natural.wishes import Customer, called, told
from sentinel.records import Origin, OriginKind, Task
from sentinel.seeds import generator

KINDS = {kind.condition: kind for kind in natural_kinds()}
WORLD = World.tau2()


def tasks(condition: str, count: int) -> Iterator[Task]:
    maker = NaturalTasks(shared_people(WORLD, benchmark_users()))
    for number in range(count):
        rng = generator("natural", condition, number)
        made = maker.make(KINDS[condition], rng, task_id=f"t{number}", origin=Origin(kind=OriginKind.general))
        if made is not None:
            yield made


def test_nobody_moves_to_one_place_and_has_parcels_sent_to_another() -> None:
    moving = 0
    for task in (*tasks("several/four", 150), *tasks("refuse/and_write", 150)):
        calls = [call for call in (*task.gold, *task.temptations) if "address1" in call.arguments]
        if not any(call.name == "modify_user_address" for call in calls):
            continue
        places = {str({k: v for k, v in call.arguments.items() if not k.endswith("_id")}) for call in calls}
        assert len(places) == 1, task.scenario.reason_for_call
        moving += len(calls) > 1
        assert converse(task, WORLD.open(task.records), gold_delta(WORLD, task)).problem == ""
    assert moving > 20


@pytest.mark.parametrize("condition", ["refuse/sold_out", "refuse/status", "refuse/poor_gift_card", "cancel/declined"])
def test_who_is_refused_goes_on_with_another_order(condition: str) -> None:
    made = list(tasks(condition, 30))
    assert len(made) > 20
    for task in made:
        refused = task.temptations[0].arguments["order_id"]
        assert refused not in task.scenario.intents[0].if_refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "tea kettle"),
        ({"color": "red"}, "red tea kettle"),
        ({"size": "10"}, "size 10 tea kettle"),
        ({"size": "XL"}, "size XL tea kettle"),
        ({"size": "large"}, "large tea kettle"),
        ({"color": "red", "size": "10"}, "tea kettle with color red and size 10"),
    ],
)
def test_things_are_called_by_what_tells_them_apart(options: dict[str, str], words: str) -> None:
    assert called("Tea Kettle", options) == words


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("waterproof", "yes", "waterproofing"),
        ("waterproof", "no", "no waterproofing"),
        ("water resistance", "not resistant", "no water resistance"),
        ("piece count", "2-piece", "2 pieces"),
        ("brand", "Brand A", "Brand A"),
        ("features", "none", "no features"),
    ],
)
def test_options_are_told_as_people_tell_them(option: str, value: str, words: str) -> None:
    assert told(option, value) == words


def test_a_name_that_is_given_to_an_item_leads_to_its_order() -> None:
    named = 0
    for user in sorted(WORLD.db.users)[:150]:
        customer = Customer.of(WORLD.db, user)
        orders = [order.model_dump() for order in customer.orders]
        for order in customer.orders:
            for item in order.items:
                if (words := customer.named(item, customer.everything)) and "," not in words:
                    assert [found["order_id"] for found in matching_orders(orders, [words])] == [order.order_id]
                    named += 1
    assert named > 500
