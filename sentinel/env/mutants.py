"""Agents that are nearly right: the gold answer with one thing wrong, for checking that scorers tell the difference.

    for mutant in mutants(task, world.open(task.records).db, seed=0):
        play(mutant.calls, mutant.texts)

One mutant per argument of every gold write (another plausible value: another order of the same user, another variant of
the same product, another payment method, …), one per gold write left out, and one that keeps silent where something had
to be said. Some mutants succeed, rightly: those of a write that tau2 refuses, or that a later write undoes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sentinel.env.overlay import WRITE_TOOLS, Database
from sentinel.records import Json, Task, ToolCall
from sentinel.seeds import generator

T = TypeVar("T")
SAMPLE = 20
"""Users asked for another address."""


class Script(NamedTuple):
    """An agent that does not listen: what it calls, then what it says."""

    name: str
    """`gold`, `noop`, or what is wrong (`3 cancel_pending_order.reason`)."""
    calls: tuple[ToolCall, ...]
    texts: tuple[str, ...]


def gold(task: Task) -> Script:
    """The perfect agent."""
    return Script("gold", task.gold, task.communicate)


def noop(task: Task) -> Script:
    """The agent that does and says nothing."""
    return Script("noop", (), ())


def mutants(task: Task, db: Database, seed: int) -> Iterator[Script]:
    """All mutants of a task's gold answer, in a fixed order; equal seeds give equal mutants.

    Args:
        task: the task.
        db: its world as it is at first.
        seed: of what is chosen instead.
    """
    rng = generator(seed, "mutants", task.id)
    if task.communicate:
        yield gold(task)._replace(name="silent", texts=())
    for index, call in enumerate(task.gold):
        if call.name not in WRITE_TOOLS:
            continue
        before, after = task.gold[:index], task.gold[index + 1 :]
        yield gold(task)._replace(name=f"{index} {call.name} left out", calls=before + after)
        for name in (
            call.arguments if "order_id" not in call.arguments or call.arguments["order_id"] in db.orders else ()
        ):
            if changed := _altered(call, name, db, rng):
                yield gold(task)._replace(name=f"{index} {call.name}.{name}", calls=(*before, changed, *after))


def _altered(call: ToolCall, name: str, db: Database, rng: np.random.Generator) -> ToolCall | None:
    other = _OTHERS.get(name, _other_address)(call.arguments, name, db, rng)
    if other is None or other == call.arguments[name]:
        return None
    return call.model_copy(update={"arguments": {**call.arguments, name: other}})


def _pick(rng: np.random.Generator, values: list[T]) -> T | None:
    return values[int(rng.integers(len(values)))] if values else None


def _owner(arguments: Mapping[str, Json], db: Database) -> Any:
    return db.users[db.orders[arguments["order_id"]].user_id]


def _other_order(arguments: Mapping[str, Json], name: str, db: Database, rng: np.random.Generator) -> Json:
    """Another order of the same user; of anyone, where there is none."""
    own = [order for order in _owner(arguments, db).orders if order != arguments[name]]
    return _pick(rng, own or [order for order in db.orders if order != arguments[name]])


def _other_user(arguments: Mapping[str, Json], name: str, db: Database, rng: np.random.Generator) -> Json:
    return _pick(rng, [user for user in db.users if user != arguments[name]])


def _other_items(arguments: Mapping[str, Json], name: str, db: Database, rng: np.random.Generator) -> Json:
    """One item replaced by another of the same order; where there is none, one left out."""
    chosen = list(arguments[name])
    if not chosen:
        return None
    index = int(rng.integers(len(chosen)))
    spare = [item.item_id for item in db.orders[arguments["order_id"]].items if item.item_id not in chosen]
    other = _pick(rng, spare)
    return chosen[:index] + ([] if other is None else [other]) + chosen[index + 1 :]


def _other_variants(arguments: Mapping[str, Json], name: str, db: Database, rng: np.random.Generator) -> Json:
    """One new item replaced by another variant of its product."""
    chosen = list(arguments[name])
    if not chosen:
        return None
    index = int(rng.integers(len(chosen)))
    siblings = [list(product.variants) for product in db.products.values() if chosen[index] in product.variants]
    other = _pick(rng, [variant for variants in siblings for variant in variants if variant not in chosen])
    return None if other is None else [*chosen[:index], other, *chosen[index + 1 :]]


def _other_payment(arguments: Mapping[str, Json], name: str, db: Database, rng: np.random.Generator) -> Json:
    """Another payment method of the same user; of anyone, where there is none."""
    own = [method for method in _owner(arguments, db).payment_methods if method != arguments[name]]
    return _pick(rng, own or [method for user in db.users.values() for method in user.payment_methods])


def _other_reason(arguments: Mapping[str, Json], name: str, db: Database, rng: np.random.Generator) -> Json:
    reasons = ["no longer needed", "ordered by mistake", "found a better price"]
    return _pick(rng, [reason for reason in reasons if reason != arguments[name]])


def _other_address(arguments: Mapping[str, Json], name: str, db: Database, rng: np.random.Generator) -> Json:
    """The same field of another user's address; everyone lives in one country, so that one is spelt out."""
    if name == "country":
        return "United States"
    users = list(db.users)
    some = (db.users[users[int(n)]] for n in rng.integers(len(users), size=SAMPLE))
    return next((field for user in some if (field := getattr(user.address, name)) != arguments[name]), None)


_OTHERS: Mapping[str, Callable[[Mapping[str, Json], str, Database, np.random.Generator], Json]] = MappingProxyType(
    {
        "order_id": _other_order,
        "user_id": _other_user,
        "item_ids": _other_items,
        "new_item_ids": _other_variants,
        "payment_method_id": _other_payment,
        "reason": _other_reason,
    }
)
