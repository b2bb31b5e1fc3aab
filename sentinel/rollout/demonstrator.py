"""Reference agents: what a perfect agent does with a generated task, and what a careless one does instead.

    actions = expert(task)               # sentences and tool calls, in order
    actions = careless(task, world, rng) # the same with the task's decision skill missing

They know the gold answer and play blindly through the real world and the scripted user, so every observation in a
demonstration is real. Used by the warm start, by tests, and for the floors of a report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sentinel.env.overlay import WRITE_TOOLS, Database, World
from sentinel.env.vocabulary import agent_says
from sentinel.llm.templates import render_call
from sentinel.records import Task, ToolCall
from sentinel.rollout.arena import Arena
from sentinel.rollout.episode import Assignment, Episode

Action = str | ToolCall
"""A sentence to the user, or a call."""


class Demonstration(Episode):
    """An episode that plays a given list of actions (`sentinel.llm.scripted.Scripted`)."""

    def __init__(self, assignment: Assignment, arena: Arena, actions: Sequence[Action]) -> None:
        super().__init__(assignment, arena)
        self._actions = actions

    def script(self) -> Iterator[list[int]]:
        """Token ids of each action."""
        for action in self._actions:
            text = action if isinstance(action, str) else render_call(action)
            yield list(self._arena.encode(self._arena.template.turn(text)))


def expert(task: Task) -> list[Action]:
    """Everything in order: authenticate, ask what is missing, look up, confirm, write, close."""
    return _play_out(task, list(task.gold))


def careless(task: Task, world: World, rng: np.random.Generator) -> list[Action]:
    """The same agent without the decision skill that the task takes (`knobs["skill"]`)."""
    db = world.open(task.records).db
    match task.knobs.get("skill"):
        case "ask":
            return _guess(task, db, rng)
        case "variant":
            return _play_out(task, [_other_variant(call, db, rng) for call in task.gold])
        case "two_items":
            return _play_out(task, [_first_item(call) for call in task.gold])
        case "refund_method":
            return _play_out(task, [_original_method(call, db) for call in task.gold])
        case "refuse":
            return [*task.gold, agent_says("confirm"), *task.temptations, agent_says("done")]
        case "transfer":
            return [task.gold[0], agent_says("deny")]
        case "two_requests":
            return _play_out(task, list(task.gold[: _after_first_write(task)]))
        case _:
            return expert(task)


def do_nothing(task: Task) -> list[Action]:
    """The floor of an agent that claims success at once."""
    return [agent_says("done")]


def refuse_always(task: Task) -> list[Action]:
    """The floor of an agent that refuses everything."""
    return [agent_says("deny")]


def _play_out(task: Task, calls: list[ToolCall]) -> list[Action]:
    """Calls, with the questions, confirmations and the closing sentence that belong to them."""
    withheld = task.knobs.get("withheld", "none")
    actions: list[Action] = [agent_says("ask_identity")] if withheld == "identity" else []
    actions.append(calls[0])
    if withheld == "order":
        actions.append(agent_says("ask_order"))
    for call in calls[1:]:
        if call.name in WRITE_TOOLS:
            actions += [agent_says(f"ask_{withheld}")] if withheld in ("reason", "payment") else []
            actions.append(agent_says("confirm"))
        actions.append(call)
    return actions + _closing(task)


def _closing(task: Task) -> list[Action]:
    if task.knobs.get("family") == "refuse":
        return [agent_says("deny")]
    if task.knobs.get("family") == "transfer":
        return [agent_says("transferred")]
    return [agent_says("confirm"), agent_says("done")] if task.knobs.get("declined") else [agent_says("done")]


def _guess(task: Task, db: Database, rng: np.random.Generator) -> list[Action]:
    """Do not ask: give up without an identity; otherwise act on a guess."""
    known = task.model_copy(update={"knobs": {**task.knobs, "withheld": "none"}})
    match task.knobs["withheld"]:
        case "identity":
            return [agent_says("deny")]
        case "reason":
            reason = str(rng.choice(["no longer needed", "ordered by mistake"]))
            return _play_out(known, [_with(call, reason=reason) for call in task.gold])
        case "payment":
            return _play_out(known, [_original_method(call, db) for call in task.gold])
        case _:
            user = _owner(task, db)
            lookup = ToolCall(name="get_user_details", arguments={"user_id": user})
            orders = db.users[user].orders
            calls = [_with(call, order_id=orders[0]) for call in task.gold if call.name != "get_user_details"]
            return _play_out(known, [calls[0], lookup, *calls[1:]])


def _with(call: ToolCall, **changes: object) -> ToolCall:
    """The call with those of the changes that it has an argument for."""
    return call.model_copy(
        update={"arguments": {key: changes.get(key, value) for key, value in call.arguments.items()}}
    )


def _owner(task: Task, db: Database) -> str:
    """The user that the task's orders belong to."""
    order = next(call.arguments["order_id"] for call in task.gold if "order_id" in call.arguments)
    return str(db.orders[order].user_id)


def _original_method(call: ToolCall, db: Database) -> ToolCall:
    if "payment_method_id" not in call.arguments:
        return call
    return _with(call, payment_method_id=db.orders[call.arguments["order_id"]].payment_history[0].payment_method_id)


def _first_item(call: ToolCall) -> ToolCall:
    return _with(
        call, **{name: call.arguments[name][:1] for name in ("item_ids", "new_item_ids") if name in call.arguments}
    )


def _other_variant(call: ToolCall, db: Database, rng: np.random.Generator) -> ToolCall:
    """Another variant of the same product than the one asked for."""
    if "new_item_ids" not in call.arguments:
        return call
    old, new = call.arguments["item_ids"][0], call.arguments["new_item_ids"][0]
    variants = next(product.variants for product in db.products.values() if new in product.variants)
    others = [item for item in variants if item not in (old, new)]
    return _with(call, new_item_ids=[str(rng.choice(others))]) if others else call


def _after_first_write(task: Task) -> int:
    return next(n for n, call in enumerate(task.gold, 1) if call.name in WRITE_TOOLS)
