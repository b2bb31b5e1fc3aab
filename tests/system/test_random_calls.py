"""The overlay against tau2's own environment: thousands of random sequences of calls, equal answers, equal end states.

Each sequence is played by one customer, so that calls meet what earlier calls left behind: a modified order is modified
or cancelled again, a moved customer is looked up. tau2's side is one database for all sequences. After each, it is
compared record by record with the pristine one, what differs must be the overlay's delta to the last digit, and is put
back; that this restores it is checked by tau2's own hash.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from tau2.data_model.message import ToolCall as WireCall

from sentinel.artifacts import canonical
from sentinel.env.overlay import KINDS, TOOLS, WRITE_TOOLS, Delta, World
from sentinel.env.retail import Environment, Order, RetailDB, RetailTools, User
from sentinel.records import ToolCall, digest

SEQUENCES, PARTS = 5000, 5
"""Sequences of all parts together; each part draws from calls of its own."""
SNATCHES = 1000
"""One to three calls each that a part has ready for every customer."""
HASHED_EVERY = 250
JUNK: list[Any] = [None, 3, -1.5, True, "", "nope", "#W0000000", [], ["nope"], [None], {}, {"a": 1}]
OWN = 2
"""Customers whose records come with the task; those of the others lie in the base."""
ADDRESS = ["address1", "address2", "city", "state", "country", "zip"]
ITEMS = ["order_id", "item_ids", "new_item_ids", "payment_method_id"]
PARAMETERS = {
    "calculate": ["expression"],
    "find_user_id_by_email": ["email"],
    "find_user_id_by_name_zip": ["first_name", "last_name", "zip"],
    "list_all_product_types": [],
    "transfer_to_human_agents": ["summary"],
    "get_user_details": ["user_id"],
    "get_product_details": ["product_id"],
    "modify_user_address": ["user_id", *ADDRESS],
    "modify_pending_order_address": ["order_id", *ADDRESS],
    "modify_pending_order_payment": ["order_id", "payment_method_id"],
    "modify_pending_order_items": ITEMS,
    "exchange_delivered_order_items": ITEMS,
    "return_delivered_order_items": ["order_id", "item_ids", "payment_method_id"],
    "cancel_pending_order": ["order_id", "reason"],
    "get_order_details": ["order_id"],
}
FITTING = {name: next((status for status in ("pending", "delivered") if status in name), "") for name in PARAMETERS}
"""The status of an order that the tool accepts, where it minds."""
NAMES = sorted(PARAMETERS) + 2 * sorted(WRITE_TOOLS)
SEQUELS = {"modify_user_address": 30 * ["find_user_id_by_name_zip", "get_user_details"]}
"""What would show at once whether a write is seen."""
EXPRESSIONS = ["2 + 2", "(1.5 - 3) * 4", "1 / 0", "abs(1)", "2 +", "7 / 3"]
REASONS = ["no longer needed", "ordered by mistake", "boredom"]


@cache
def customers() -> list[User]:
    """Five with a choice of payment methods, and with a pending and a delivered order each."""
    db = World.tau2().db
    rich = [user for user in db.users.values() if len(user.payment_methods) > 2]
    return [user for user in rich if {"pending", "delivered"} <= {db.orders[order].status for order in user.orders}][:5]


def records(users: list[User]) -> dict[str, dict[str, Any]]:
    """Records of customers and their orders, as JSON."""
    orders = [World.tau2().db.orders[order] for user in users for order in user.orders]
    return {
        "users": {user.user_id: user.model_dump() for user in users},
        "orders": {order.order_id: order.model_dump() for order in orders},
    }


@cache
def everything() -> dict[str, dict[str, Any]]:
    found = records(customers())
    wanted = sorted({item["product_id"] for order in found["orders"].values() for item in order["items"]})
    return {**found, "products": {key: World.tau2().db.products[key].model_dump() for key in wanted}}


@cache
def layered() -> tuple[World, dict[str, dict[str, Any]]]:
    """A world, and records of a task to be laid over it; together they are everything."""
    own = records(customers()[:OWN])
    rest = {k: {key: v for key, v in kind.items() if key not in own.get(k, {})} for k, kind in everything().items()}
    return World.from_data(rest), own


class Arguments:
    """Values that belong together: one customer, one order and its items; drawn as they are needed."""

    def __init__(self, rng: random.Random, user: User, tool: str, last: str) -> None:
        self._one, self._user, db = rng.choice, user, World.tau2().db
        orders = [db.orders[order] for order in user.orders]
        fitting = [order for order in orders if order.status == FITTING[tool]]
        again = [order for order in orders if order.order_id == last]
        self._order: Order = self._one(3 * again + (fitting or orders) + orders[:1])
        self._items = rng.choices(self._order.items, k=rng.randrange(4)) if "items" in tool else []
        self._address = self._one(customers()).address if "address" in tool else user.address

    def _variant(self, product: str) -> str:
        variants = World.tau2().db.products[product].variants
        available = sorted(key for key, variant in variants.items() if variant.available)
        return str(self._one(2 * available + sorted(variants)))

    def value(self, name: str) -> Any:
        """A legal value, at least in form."""
        match name:
            case "order_id":
                return self._order.order_id
            case "item_ids":
                return [item.item_id for item in self._items]
            case "new_item_ids":
                return [self._variant(item.product_id) for item in self._items]
            case "payment_method_id":
                return self._one(sorted(self._user.payment_methods))
            case "reason":
                return self._one(REASONS)
            case "expression":
                return self._one(EXPRESSIONS)
            case "product_id":
                return self._one(list(everything()["products"]))
            case "email":
                return self._one([self._user.email, self._user.email.upper()])
            case "zip" if self._address is self._user.address:
                return self._one([user.address.zip for user in customers()] + 5 * [self._user.address.zip])
            case "first_name" | "last_name":
                return getattr(self._user.name, name)
            case "user_id" | "summary":
                return self._user.user_id
        return getattr(self._address, name)


def one_call(rng: random.Random, user: User, last: ToolCall) -> ToolCall:
    """Mostly a legal call; else one with a junk value, a missing or foreign argument, or an unknown tool."""
    name = rng.choice(NAMES + SEQUELS.get(last.name, []))
    made = Arguments(rng, user, name, last.arguments.get("order_id", ""))
    arguments = {parameter: made.value(parameter) for parameter in PARAMETERS[name]}
    match rng.randrange(20):
        case 0 | 1 if arguments:
            arguments[rng.choice(list(arguments))] = rng.choice(JUNK)
        case 2 if arguments:
            del arguments[rng.choice(list(arguments))]
        case 3:
            arguments[rng.choice(["user_id", "requestor", "tool_name", "self", "x"])] = "y"
        case 4:
            name = rng.choice(["get_item_details", "update_db", "_get_order", ""])
    return ToolCall(name=name, arguments=arguments)


def snatch(rng: random.Random, user: User) -> list[ToolCall]:
    """One to three calls, each with an eye on the one before."""
    calls = [ToolCall(name="")]
    for _ in range(rng.randint(1, 3)):
        calls.append(one_call(rng, user, calls[-1]))
    return calls[1:]


def sequences(part: int) -> st.SearchStrategy[list[list[ToolCall]]]:
    """What an agent without sense does for one customer."""
    rng = random.Random(part)
    ready = [[snatch(rng, user) for _ in range(SNATCHES)] for user in customers()]
    return st.one_of([st.lists(st.sampled_from(snatches), min_size=1, max_size=3) for snatches in ready])


def texts(db: RetailDB) -> dict[tuple[str, str], str]:
    """Every record as JSON, in which 1 is not 1.0."""
    return {(kind, key): record.model_dump_json() for kind in KINDS for key, record in getattr(db, kind).items()}


class Reference:
    """tau2's environment over one database, put back after every sequence."""

    def __init__(self) -> None:
        self._pristine = RetailDB.model_validate(everything())
        self._db = self._pristine.model_copy(deep=True)
        self._texts = texts(self._pristine)
        self._environment = Environment("retail", policy="", tools=RetailTools(self._db))

    def answer(self, call: ToolCall) -> tuple[str, bool]:
        """What tau2 answers, and whether that is an error."""
        message = self._environment.get_response(WireCall(id="1", name=call.name, arguments=call.arguments))
        return message.content, message.error

    def take_delta(self) -> Delta:
        """Every record that differs from the pristine one; puts it back."""
        changed: Delta = {}
        found = texts(self._db)
        assert list(found) == list(self._texts)
        for kind, key in [place for place, text in found.items() if text != self._texts[place]]:
            ours = getattr(self._db, kind)
            changed.setdefault(kind, {})[key] = ours[key].model_dump()
            ours[key] = getattr(self._pristine, kind)[key].model_copy(deep=True)
        return changed

    def is_pristine(self) -> bool:
        return bool(self._db.get_hash() == self._pristine.get_hash())


@pytest.mark.parametrize("part", range(PARTS))
def test_random_sequences_of_calls_end_as_in_tau2(part: int) -> None:
    (world, own), theirs, seen = layered(), Reference(), Counter[str]()
    before = digest(world.db.model_dump())

    @seed(part)
    @settings(max_examples=SEQUENCES // PARTS, suppress_health_check=list(HealthCheck))
    @given(sequences(part))
    def check(snatches: list[list[ToolCall]]) -> None:
        session = world.open(own)
        try:
            for call in chain.from_iterable(snatches):
                result = session.call(call)
                assert (result.text, result.error) == theirs.answer(call)
                seen["refused" if result.error else call.name] += 1
        finally:
            expected = theirs.take_delta()
        delta = session.delta()
        assert canonical(delta) == canonical(expected)
        seen["changed"] += bool(delta)
        seen["sequences"] += 1
        if seen["sequences"] % HASHED_EVERY == 0:
            assert theirs.is_pristine()

    check()
    assert theirs.is_pristine()
    assert digest(world.db.model_dump()) == before
    assert seen["sequences"] >= SEQUENCES // PARTS
    assert min(seen[tool] for tool in TOOLS) >= 10, f"some tool hardly ever succeeded: {seen}"
    assert min(seen["refused"], seen["changed"]) >= seen["sequences"] / 4, seen
