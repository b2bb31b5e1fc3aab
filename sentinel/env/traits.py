"""What a task asks of an agent besides its knobs, read off its records and its gold answer.

    traits(task)      # {"tools": "cancel_pending_order", "writes": 1, "items": 0, "orders": 2, "twins": True, …}

They hold for tasks of any origin, so that failures on benchmark tasks, which have no knobs, can be told apart, and the
Proposer can be asked for tasks that have them. Nothing here depends on what the agent did.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from sentinel.env.overlay import TRANSFER_TOOL, WRITE_TOOLS, World
from sentinel.records import Json, Task

Traits = dict[str, str | int | bool]
STATE = frozenset({"orders", "methods", "twins", "payment"})
"""Characteristics that are conditions on the customer's records; all others are knobs of difficulty."""
MANY = 3
"""Counts from which on there are just many."""
_CORRECTS = re.compile(
    r"change your mind|changes? (?:his|her|their) mind|you (?:also )?(?:regret|realize)|do not say yes immediately"
    r"|if the agent asks (?:you )?(?:for|to) confirm|but when the agent",
    re.IGNORECASE,
)


def traits(task: Task) -> Traits:
    """The traits of a task; those that its records do not tell are absent."""
    made = [call for call in task.gold if call.name in WRITE_TOOLS]
    writes = [call.arguments for call in made]
    items = max((len(arguments.get("item_ids", ())) for arguments in writes), default=0)
    found: Traits = {"writes": min(len(writes), MANY), "items": min(items, MANY), "corrects": _corrects(task)}
    found["tools"] = "+".join(sorted({call.name for call in made}))
    users, orders = _records(task)
    user = users.get(_customer(task, writes, orders))
    if user is None:
        return found
    owned = [orders[key] for key in user["orders"] if key in orders]
    found |= {"orders": len(user["orders"]), "methods": min(len(user["payment_methods"]), MANY)}
    found["twins"] = _twins(owned)
    if payment := _payment(writes, orders, user):
        found["payment"] = payment
    return found


def characteristics(task: Task) -> Traits:
    """All that is known of a task: its knobs, which its generator set, and the traits that they leave open."""
    return traits(task) | task.knobs


def in_play(task: Task) -> frozenset[str]:
    """Tools, other than look-ups, that its gold answer calls, or that a careless agent is tempted to call."""
    called = {call.name for call in (*task.gold, *task.temptations)}
    return frozenset(called & (WRITE_TOOLS | {TRANSFER_TOOL}))


def _corrects(task: Task) -> bool:
    said = task.scenario
    declines = any(not intent.confirms for intent in said.intents)
    return declines or bool(_CORRECTS.search(f"{said.reason_for_call} {said.instructions}"))


def _records(task: Task) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Users and orders of a task, as JSON: its own, or those of tau2's world."""
    own = task.records
    if not own.get("users") and task.world == _tau2_hash():
        return _tau2_records()
    return own.get("users", {}), own.get("orders", {})


@cache
def _tau2_hash() -> str:
    return World.tau2().hash


@cache
def _tau2_records() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    db = World.tau2().db.model_dump()
    return db["users"], db["orders"]


def _customer(task: Task, writes: list[dict[str, Json]], orders: Mapping[str, Any]) -> str:
    """User id of the person whom the gold answer serves; a private world has one customer with orders."""
    for arguments in [*writes, *(call.arguments for call in task.gold)]:
        if user := arguments.get("user_id") or orders.get(str(arguments.get("order_id")), {}).get("user_id"):
            return str(user)
    owners = {order["user_id"] for order in task.records.get("orders", {}).values()}
    return owners.pop() if len(owners) == 1 else ""


def _twins(owned: list[Mapping[str, Any]]) -> bool:
    """Whether the customer has two items of one product, so that its name does not tell which is meant."""
    products = Counter(item["product_id"] for order in owned for item in order["items"])
    return any(count > 1 for count in products.values())


def _payment(writes: list[dict[str, Json]], orders: Mapping[str, Any], user: Mapping[str, Any]) -> str:
    """Kind of the payment method of the first gold write: the one it names, or the one the order was paid with."""
    for arguments in writes:
        paid = orders.get(str(arguments.get("order_id")), {}).get("payment_history") or [{}]
        method = arguments.get("payment_method_id") or paid[0].get("payment_method_id")
        if method in user["payment_methods"]:
            return str(user["payment_methods"][method]["source"])
    return ""
