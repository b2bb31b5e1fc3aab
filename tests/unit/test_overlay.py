"""The overlay against tau2's own environment: equal answers, equal end states, an untouched base."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tau2.data_model.message import ToolCall as WireCall

from sentinel.env.overlay import KINDS, TOOLS, WRITE_TOOLS, World
from sentinel.env.retail import Environment, RetailDB, RetailTools
from sentinel.env.tau2 import benchmark_tasks
from sentinel.records import ToolCall, digest

JUNK: list[Any] = [None, 3, -1.5, True, "", "nope", "#W0000000", [], ["nope"], [None], {}, {"a": 1}]


@cache
def small_data() -> dict[str, dict[str, Any]]:
    """Ten of tau2's users with all their orders, and all products."""
    db = World.tau2().db
    users = [user for user in db.users.values() if len(user.orders) >= 2][:10]
    orders = [db.orders[order] for user in users for order in user.orders]
    return {
        "users": {user.user_id: user.model_dump() for user in users},
        "orders": {order.order_id: order.model_dump() for order in orders},
        "products": {key: product.model_dump() for key, product in db.products.items()},
    }


def legal_arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Values for every argument of every tool, that belong together: one order, its items, its owner."""
    data = small_data()
    order = draw(st.sampled_from(sorted(data["orders"].values(), key=lambda order: order["order_id"])))
    user = data["users"][order["user_id"]]
    items = draw(st.lists(st.sampled_from(order["items"]), max_size=3))
    variants = [draw(st.sampled_from(sorted(data["products"][item["product_id"]]["variants"]))) for item in items]
    address = data["users"][draw(st.sampled_from(sorted(data["users"])))]["address"]
    return {
        **user["name"],
        **address,
        "zip": draw(st.sampled_from([address["zip"], user["address"]["zip"]])),
        "email": draw(st.sampled_from([user["email"], user["email"].upper()])),
        "user_id": user["user_id"],
        "order_id": order["order_id"],
        "product_id": draw(st.sampled_from(sorted(data["products"]))),
        "item_ids": [item["item_id"] for item in items],
        "new_item_ids": variants,
        "payment_method_id": draw(st.sampled_from(sorted(user["payment_methods"]))),
        "reason": draw(st.sampled_from(["no longer needed", "ordered by mistake", "boredom"])),
        "expression": draw(st.sampled_from(["2 + 2", "(1.5 - 3) * 4", "1 / 0", "abs(1)", "2 +", "7 / 3"])),
        "summary": "a request that no tool covers",
    }


PARAMETERS = {
    "calculate": ["expression"],
    "find_user_id_by_email": ["email"],
    "find_user_id_by_name_zip": ["first_name", "last_name", "zip"],
    "list_all_product_types": [],
    "transfer_to_human_agents": ["summary"],
    "get_user_details": ["user_id"],
    "get_product_details": ["product_id"],
    "modify_user_address": ["user_id", "address1", "address2", "city", "state", "country", "zip"],
    "modify_pending_order_address": ["order_id", "address1", "address2", "city", "state", "country", "zip"],
    "modify_pending_order_payment": ["order_id", "payment_method_id"],
    "modify_pending_order_items": ["order_id", "item_ids", "new_item_ids", "payment_method_id"],
    "exchange_delivered_order_items": ["order_id", "item_ids", "new_item_ids", "payment_method_id"],
    "return_delivered_order_items": ["order_id", "item_ids", "payment_method_id"],
    "cancel_pending_order": ["order_id", "reason"],
    "get_order_details": ["order_id"],
}


@st.composite
def tool_calls(draw: st.DrawFn) -> ToolCall:
    """Mostly a legal call; else one with a junk value, a missing or foreign argument, or an unknown tool."""
    name = draw(st.sampled_from(sorted(PARAMETERS) + sorted(WRITE_TOOLS)))
    legal = legal_arguments(draw)
    arguments = {parameter: legal[parameter] for parameter in PARAMETERS[name]}
    match draw(st.integers(0, 15)):
        case 0 | 1 if arguments:
            arguments[draw(st.sampled_from(sorted(arguments)))] = draw(st.sampled_from(JUNK))
        case 2 if arguments:
            del arguments[draw(st.sampled_from(sorted(arguments)))]
        case 3:
            arguments[draw(st.sampled_from(["user_id", "requestor", "tool_name", "self", "x"]))] = "y"
        case 4:
            name = draw(st.sampled_from(["get_item_details", "update_db", "_get_order", ""]))
    return ToolCall(name=name, arguments=arguments)


def split(data: dict[str, dict[str, Any]], odd: bool) -> dict[str, dict[str, Any]]:
    return {
        kind: {key: record for key, record in records.items() if (int(digest(key), 16) % 2 == 1) == odd}
        for kind, records in data.items()
    }


@cache
def layered_world() -> World:
    """Half of the records in the base; the other half comes with the task."""
    return World.from_data(split(small_data(), odd=False))


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(calls=st.lists(tool_calls(), min_size=1, max_size=8))
def test_sessions_answer_and_end_as_tau2_environments(calls: list[ToolCall]) -> None:
    world, before = layered_world(), digest(layered_world().db.model_dump())
    session = world.open(split(small_data(), odd=True))
    theirs = RetailDB.model_validate(small_data())
    environment = Environment("retail", policy="", tools=RetailTools(theirs))
    for call in calls:
        expected = environment.get_response(WireCall(id="1", name=call.name, arguments=call.arguments))
        result = session.call(call)
        assert (result.text, result.error) == (expected.content, expected.error)
    changed = {
        kind: {key: record for key, record in records.items() if record != small_data()[kind][key]}
        for kind, records in theirs.model_dump().items()
    }
    assert session.delta() == {kind: records for kind, records in changed.items() if records}
    assert digest(world.db.model_dump()) == before


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
    assert set(TOOLS) == set(PARAMETERS)
    assert len(TOOLS) == 15
    assert len(WRITE_TOOLS) == 7
