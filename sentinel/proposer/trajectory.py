"""Gold first: an executable tool trajectory, from which the task is written.

    task = generate(condition, scene, rng, task_id="01-explore-003", origin=Origin(kind="general"))

For a condition the generator looks for a user of the scene whose orders allow (or, for refusals, forbid) the request,
builds the calls a perfect agent makes, and executes them; a scene without such a user gives `None`, and the caller
tries another one. The request is worded last (`sentinel.proposer.request`). Works on a synthetic world made for the
task and on tau2's own database alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sentinel.artifacts import canonical
from sentinel.env.overlay import WRITE_TOOLS, World
from sentinel.env.retail import GiftCard, Order, OrderItem, RetailDB, User, Variant
from sentinel.env.scoring import gold_delta
from sentinel.env.synthetic import Records, street_address, street_lines
from sentinel.env.synthetic import generate as generate_world
from sentinel.proposer.conditions import TOOL_OF, Condition
from sentinel.proposer.request import Request, scenario
from sentinel.records import Json, Origin, Task, ToolCall
from sentinel.spec.models import SyntheticWorld

ATTEMPTS = 60
"""Scenes tried for one task before it is given up as unsatisfiable."""
EMAIL_SHARE = 0.8
REFUSAL = "I cannot do that"
TRANSFER = "TRANSFERRED TO A HUMAN AGENT"
QUESTION = "go ahead"
"""What an agent must have asked where the user declines: it tells asking from doing nothing."""


class Scene(NamedTuple):
    """Where a task may play: a world, the task's own records in it, and the users it may be about."""

    world: World
    records: Records
    db: RetailDB
    """The world as the task sees it."""
    users: Sequence[str]
    exact: bool
    """Whether an order must hold just the items that a request is about."""


Scenes = Callable[[np.random.Generator], Scene]
"""Draws a scene."""


def synthetic_scenes(world: World, settings: SyntheticWorld) -> Scenes:
    """A fresh synthetic world for every task."""

    def draw(rng: np.random.Generator) -> Scene:
        records = generate_world(settings, rng)
        db = RetailDB.model_validate(records)
        return Scene(world, records, db, list(records["users"])[:1], settings.ids == "atomic")

    return draw


def shared_scenes(world: World, banned_users: frozenset[str]) -> Scenes:
    """One user of a shared database, other than the banned ones (those of the benchmark)."""
    users = sorted(user for user, record in world.db.users.items() if record.orders and user not in banned_users)

    def draw(rng: np.random.Generator) -> Scene:
        return Scene(world, {}, world.db, [users[int(rng.integers(len(users)))]], exact=False)

    return draw


def generate(
    condition: Condition, scenes: Scenes, rng: np.random.Generator, *, task_id: str, origin: Origin
) -> Task | None:
    """A task of this condition, or `None` if `ATTEMPTS` scenes did not allow one."""
    for _ in range(ATTEMPTS):
        scene = scenes(rng)
        user = scene.db.users[scene.users[0]]
        requests = _ground(condition, scene, user, rng)
        if requests and (task := _write(condition, scene, user, requests, rng, task_id, origin)):
            return task
    return None


def _as_read_back(records: Records) -> Records:
    """The records in the order of an artifact: it decides in which order a policy sees variants and payments."""
    stored: Records = json.loads(canonical(records))
    return stored


def _write(
    condition: Condition,
    scene: Scene,
    user: User,
    requests: list[Request],
    rng: np.random.Generator,
    task_id: str,
    origin: Origin,
) -> Task | None:
    """The task, if its gold answer runs without an error and changes something unless it must not."""
    by_email = bool(rng.random() < EMAIL_SHARE)
    gold = tuple(_calls(condition, scene, user, requests, by_email))
    session = scene.world.open(scene.records)
    if any(session.call(call).error for call in gold):
        return None
    communicate, avoid = _statements(condition)
    writes = any(call.name in WRITE_TOOLS for call in gold)
    task = Task(
        id=task_id,
        world=scene.world.hash,
        records=_as_read_back(scene.records),
        origin=origin,
        scenario=scenario(condition, user, requests, by_email=by_email),
        gold=gold,
        communicate=communicate,
        avoid=avoid,
        temptations=tuple(_action(r, user) for r in requests)
        if condition.obstacle != "none" or condition.declined
        else (),
        knobs=condition.knobs() | {"identity": "email" if by_email else "name", "orders": len(user.orders)},
    )
    return task if writes == bool(gold_delta(scene.world, task)) else None


def _statements(condition: Condition) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the agent must say, and what it must not."""
    if condition.obstacle != "none":
        return (REFUSAL,), (TRANSFER,)
    if condition.family == "transfer":
        return (TRANSFER,), (REFUSAL,)
    return (QUESTION,) if condition.declined else (), (REFUSAL, TRANSFER)


def _ground(condition: Condition, scene: Scene, user: User, rng: np.random.Generator) -> list[Request] | None:
    """One request per wish of the condition, each about another order."""
    free = [scene.db.orders[order] for order in rng.permutation(user.orders)]
    requests: list[Request] = []
    for kind in condition.requests:
        found = next(((r, order) for order in free if (r := _request(kind, condition, scene, user, order, rng))), None)
        if found is None:
            return None
        requests.append(found[0])
        free.remove(found[1])
    return requests


def _request(
    kind: str, condition: Condition, scene: Scene, user: User, order: Order, rng: np.random.Generator
) -> Request | None:
    """The request about this order, or `None` where the order does not fit the condition."""
    wanted = "delivered" if kind in ("return", "exchange") else "pending"
    if kind not in ("user_address", "transfer") and (order.status == wanted) == (condition.obstacle == "status"):
        return None
    original = order.payment_history[0].payment_method_id
    match kind:
        case "cancel":
            reason = (
                "" if condition.obstacle == "reason" else str(rng.choice(["no longer needed", "ordered by mistake"]))
            )
            return Request(kind, order.order_id, reason=reason)
        case "address" | "user_address":
            taken = {order.address.address1, user.address.address1}
            lines = [line for line in street_lines() if line not in taken]
            return Request(kind, order.order_id if kind == "address" else "", address=str(rng.choice(lines)))
        case "payment":
            method = _other_method(condition, user, order, rng)
            return Request(kind, order.order_id, method=method) if method else None
        case "transfer":
            return Request(kind, order.order_id)
        case _:
            items = _items(condition, scene, order, rng)
            method = original if kind != "return" else _refund(condition, user, original, rng)
            if not items or not method:
                return None
            choices = () if kind == "return" else _choices(scene, items, rng)
            return Request(kind, order.order_id, items, choices, method) if choices or kind == "return" else None


def _items(condition: Condition, scene: Scene, order: Order, rng: np.random.Generator) -> tuple[OrderItem, ...]:
    """Items of the order that a name identifies."""
    names = [item.name for item in order.items]
    if len(set(names)) < len(names) or len(names) < condition.items or (scene.exact and len(names) != condition.items):
        return ()
    chosen = sorted(int(i) for i in rng.choice(len(names), size=condition.items, replace=False))
    return tuple(order.items[i] for i in chosen)


def _choices(scene: Scene, items: Sequence[OrderItem], rng: np.random.Generator) -> tuple[Variant, ...]:
    """Another variant in stock for each item, or none at all."""
    found = []
    for item in items:
        others = [
            v for v in scene.db.products[item.product_id].variants.values() if v.available and v.item_id != item.item_id
        ]
        if not others:
            return ()
        found.append(others[int(rng.integers(len(others)))])
    return tuple(found)


def _refund(condition: Condition, user: User, original: str, rng: np.random.Generator) -> str | None:
    """The method a return is refunded to: the original, a gift card by name, or (forbidden) another one."""
    others = [m for m in user.payment_methods.values() if m.id != original]
    cards = [m.id for m in others if isinstance(m, GiftCard)]
    if condition.obstacle == "method":
        pool = [m.id for m in others if not isinstance(m, GiftCard)]
    elif condition.method == "named":
        pool = cards
    elif condition.withheld == "payment":
        pool = [*cards, original]
    else:
        pool = [original]
    return str(rng.choice(pool)) if pool else None


def _other_method(condition: Condition, user: User, order: Order, rng: np.random.Generator) -> str | None:
    """Another method of the user that covers the order or, as an obstacle, a gift card that does not."""
    paid = order.payment_history[0]
    others = [m for m in user.payment_methods.values() if m.id != paid.payment_method_id]
    poor = [m.id for m in others if isinstance(m, GiftCard) and m.balance < paid.amount]
    pool = poor if condition.obstacle == "balance" else [m.id for m in others if m.id not in poor]
    return str(rng.choice(pool)) if pool and len(order.payment_history) == 1 else None


def _calls(
    condition: Condition, scene: Scene, user: User, requests: list[Request], by_email: bool
) -> Iterator[ToolCall]:
    """The gold answer: authentication, look-ups, and the writes unless policy or the user forbids them."""
    if by_email:
        yield ToolCall(name="find_user_id_by_email", arguments={"email": user.email})
    else:
        name = {"first_name": user.name.first_name, "last_name": user.name.last_name, "zip": user.address.zip}
        yield ToolCall(name="find_user_id_by_name_zip", arguments=name)
    for request in requests:
        yield from _lookups(condition, request, user)
        if condition.obstacle == "none" and not condition.declined:
            yield _action(request, user)


def _lookups(condition: Condition, request: Request, user: User) -> Iterator[ToolCall]:
    """What has to be known before acting; an order in the wrong state ends the matter at once."""
    if request.order and request.kind != "transfer":
        yield ToolCall(name="get_order_details", arguments={"order_id": request.order})
    if request.kind == "payment":
        yield ToolCall(name="get_user_details", arguments={"user_id": user.user_id})
    if request.choices and condition.obstacle != "status":
        for item in request.items:
            yield ToolCall(name="get_product_details", arguments={"product_id": item.product_id})


def _action(request: Request, user: User) -> ToolCall:
    """The call that fulfils the request."""
    items = [item.item_id for item in request.items]
    arguments: dict[str, Json]
    match request.kind:
        case "cancel":
            arguments = {"order_id": request.order, "reason": request.reason or "no longer needed"}
        case "address":
            arguments = {"order_id": request.order, **street_address(request.address)}
        case "user_address":
            arguments = {"user_id": user.user_id, **street_address(request.address)}
        case "payment":
            arguments = {"order_id": request.order, "payment_method_id": request.method}
        case "transfer":
            arguments = {"summary": "the customer asks for a human"}
        case "return":
            arguments = {"order_id": request.order, "item_ids": items, "payment_method_id": request.method}
        case _:
            new = [choice.item_id for choice in request.choices]
            arguments = {
                "order_id": request.order,
                "item_ids": items,
                "new_item_ids": new,
                "payment_method_id": request.method,
            }
    return ToolCall(name=TOOL_OF[request.kind], arguments=arguments)


__all__ = ["ATTEMPTS", "Scene", "Scenes", "generate", "shared_scenes", "synthetic_scenes"]
