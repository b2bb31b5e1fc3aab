"""The overlay against tau2's own environment: equal answers, equal end states, an untouched base."""

import json
from typing import Any

import pytest
from tau2.data_model.message import ToolCall as WireCall

from sentinel.env.overlay import KINDS, TOOLS, WRITE_TOOLS, World
from sentinel.env.retail import Environment, RetailTools
from sentinel.env.tau2 import benchmark_tasks
from sentinel.records import ToolCall, digest


def test_gold_deltas_are_the_differences_of_tau2s_whole_database() -> None:
    world = World.tau2()
    theirs = world.db.model_copy(deep=True)
    for task in benchmark_tasks("tau2-base"):
        session, environment = world.open(), Environment("retail", policy="", tools=RetailTools(theirs))
        for call in task.gold:
            expected = environment.get_response(WireCall(id="1", name=call.name, arguments=call.arguments))
            assert session.call(call).text == expected.content
        delta: dict[str, dict[str, Any]] = {}
        for kind in KINDS:
            originals, records = getattr(world.db, kind), getattr(theirs, kind)
            for key in [key for key, record in records.items() if record != originals[key]]:
                delta.setdefault(kind, {})[key] = records[key].model_dump()
                records[key] = originals[key].model_copy(deep=True)
        assert session.delta() == delta, task.id
    assert digest(world.db.model_dump()) == world.hash


CANCEL = ToolCall(name="cancel_pending_order", arguments={"order_id": "#W1", "reason": "no longer needed"})


def one_order() -> dict[str, dict[str, Any]]:
    """A user with a gift card and one pending order."""
    address = {"address1": "1 A St", "address2": "", "city": "B", "country": "USA", "state": "CA", "zip": "00001"}
    user = {
        "user_id": "u",
        "name": {"first_name": "Zed", "last_name": "Quark"},
        "address": address,
        "email": "z@q.org",
        "payment_methods": {"gift_card_1": {"source": "gift_card", "id": "gift_card_1", "balance": 1.0}},
        "orders": ["#W1"],
    }
    payment = {"transaction_type": "payment", "amount": 2.5, "payment_method_id": "gift_card_1"}
    order = {
        "order_id": "#W1",
        "user_id": "u",
        "address": address,
        "items": [],
        "status": "pending",
        "fulfillments": [],
        "payment_history": [payment],
    }
    return {"users": {"u": user}, "orders": {"#W1": order}}


def test_sessions_of_one_world_do_not_see_one_another() -> None:
    world, records = World.from_data({}), one_order()
    first, second = world.open(records), world.open(records)
    assert not first.call(CANCEL).error
    seen = second.call(ToolCall(name="get_order_details", arguments={"order_id": "#W1"}))
    assert json.loads(seen.text)["status"] == "pending"
    assert first.delta()["users"]["u"]["payment_methods"]["gift_card_1"]["balance"] == 3.5
    assert first.delta()["orders"]["#W1"]["status"] == "cancelled"
    assert second.delta() == {}
    assert records == one_order()


def test_a_lookup_sees_what_the_session_changed() -> None:
    session = World.from_data(one_order()).open()
    moved = {"address1": "2 A St", "address2": "", "city": "B", "state": "CA", "country": "USA", "zip": "00002"}
    assert not session.call(ToolCall(name="modify_user_address", arguments={"user_id": "u", **moved})).error
    who = {"first_name": "zed", "last_name": "quark"}
    old, new = (
        session.call(ToolCall(name="find_user_id_by_name_zip", arguments={**who, "zip": code}))
        for code in ("00001", "00002")
    )
    assert (old.text, new.text) == ("Error: User not found", "u")


def test_a_write_of_equal_values_changes_nothing() -> None:
    session = World.from_data(one_order()).open()
    same = one_order()["users"]["u"]["address"]
    assert not session.call(ToolCall(name="modify_user_address", arguments={"user_id": "u", **same})).error
    assert session.delta() == {}


def test_a_write_that_fails_halfway_keeps_what_it_did() -> None:
    records = one_order()
    lost = {"transaction_type": "payment", "amount": 1.0, "payment_method_id": "paypal_9"}
    records["orders"]["#W1"]["payment_history"].append(lost)
    session = World.from_data({}).open(records)
    result = session.call(CANCEL)
    assert (result.text, result.error, result.value) == ("Error: Payment method not found", True, None)
    assert list(session.delta()) == ["users"], "tau2 has refunded the first payment and does not roll back"


def test_task_records_replace_those_of_the_base() -> None:
    records = one_order()
    records["orders"]["#W1"]["status"] = "delivered"
    world = World.from_data(one_order())
    assert world.open(records).call(CANCEL).text == "Error: Non-pending order cannot be cancelled"
    assert not world.open().call(CANCEL).error


def test_powers_are_refused_at_once() -> None:
    result = World.from_data({}).open().call(ToolCall(name="calculate", arguments={"expression": "9**9**9**9"}))
    assert result.text == "Error: Invalid characters in expression"


@pytest.mark.parametrize("records", [{"shops": {"s": {}}}, {"users": {"u": {"user_id": "u"}}}])
def test_records_that_do_not_fit_are_refused(records: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"shops|validation error"):
        World.from_data({}).open(records)


def test_the_hash_is_that_of_the_content() -> None:
    assert World.from_data(one_order()).hash == World.from_data(one_order()).hash
    assert World.from_data(one_order()).hash != World.from_data({}).hash


def test_the_tools_are_tau2s() -> None:
    assert len(TOOLS) == len(set(TOOLS)) == 15
    assert len(WRITE_TOOLS) == 7


def test_a_record_under_another_key_than_its_own_id_is_rendered_as_it_is() -> None:
    records = one_order()
    records["orders"]["#W2"] = {**records["orders"]["#W1"], "status": "delivered"}
    session = World.from_data({}).open(records)
    read = [session.call(ToolCall(name="get_order_details", arguments={"order_id": key})) for key in ("#W1", "#W2")]
    assert [json.loads(result.text)["status"] for result in read] == ["pending", "delivered"]
    session.call(CANCEL)
    again = session.call(ToolCall(name="get_order_details", arguments={"order_id": "#W1"}))
    assert json.loads(again.text)["status"] == "cancelled"


def test_models_are_remembered_only_for_the_very_same_records() -> None:
    world, records, others = World.from_data({}), one_order(), one_order()
    first = world.models(records)
    assert world.models({kind: dict(entries) for kind, entries in records.items()}) is first
    others["orders"]["#W1"]["status"] = "delivered"
    assert world.models(others)["orders"]["#W1"].status == "delivered"
    assert world.models({"users": records["users"]}).keys() == {"users"}
