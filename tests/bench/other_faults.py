"""Failures that are not the agent's: of the user simulator, of the task, of the infrastructure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from sentinel.env.users import FAULT
from sentinel.records import LabelKind as Kind
from sentinel.records import Party, Role, Task
from tests.bench.agent_faults import ASKED, STOP, single_writes, wrong_versions
from tests.bench.planting import (
    Base,
    Fault,
    Item,
    Items,
    Planter,
    answers,
    gold_writes,
    instead,
    says,
    until,
    without,
    writing,
)


def leaves(base: Base) -> Iterator[Fault]:
    """The user asks for a human, or hangs up, where the agent waits for its consent."""
    for item in writing(base.items)[:1]:
        start = until(base.items, item)
        talk = [other for other in start if other.role is Role.assistant and not other.calls]
        if not talk or not any(other.calls for other in until(start, talk[-1])):
            continue
        waiting = [*until(start, talk[-1]), says(ASKED)]
        truth: list = [(Kind.missing_write, None)]
        for name, text in (
            ("user leaves", "I would rather speak to a person. ###TRANSFER###"),
            ("user stops", f"Yes, please go ahead. {STOP}"),
        ):
            items = [*waiting, answers(text)]
            yield Fault(name, base.task, items, truth, Kind.missing_write, Party.user_simulator)


def noted(base: Base) -> Iterator[Fault]:
    """A fault of the user that was noted while the episode was played."""
    for item in single_writes(base.items)[-1:]:
        note = Item(Role.system, f"{FAULT}invented")
        items = instead(base.items, item, note)
        yield Fault(
            "user noted", base.task, items, [(Kind.missing_write, None)], Kind.missing_write, Party.user_simulator
        )


def dictates(base: Base) -> Iterator[Fault]:
    """The user names the wrong reason or payment method: against its instructions, or because it has none."""
    for item in single_writes(base.items)[:1]:
        for kind, wrong in wrong_versions(base, item):
            if base.world.open(base.task.records).call(wrong.calls[0]).error:
                continue  # what the tools refuse, the agent has to take up with the user
            pair = _changed(item, wrong)
            if kind is not Kind.wrong_argument or pair is None or _right_elsewhere(base.task, *pair):
                continue
            name, right, given = pair
            items = _told(instead(base.items, item, wrong), wrong, right, given)
            for party in (Party.user_simulator, Party.task):
                task = _instructed(base.task, right, party)
                yield Fault(f"dictated {name}", task, items, [(kind, wrong)], kind, party)


def _changed(item: Item, wrong: Item) -> tuple[str, str, str] | None:
    before, after = item.calls[0].arguments, wrong.calls[0].arguments
    names = [name for name in ("reason", "payment_method_id") if before.get(name) != after.get(name)]
    return (names[0], before[names[0]], after[names[0]]) if names else None


def _right_elsewhere(task: Task, name: str, right: str, given: str) -> bool:
    return any(call.arguments.get(name) == given for call in gold_writes(task))


def _told(items: Items, wrong: Item, right: str, given: str) -> Items:
    """The user names the wrong value just before the write, and never the right one."""
    before = [item for item in until(items, wrong) if item.role is Role.user]
    unsaid = {id(item): replace(item, text=re.sub(re.escape(right), "that", item.text, flags=re.I)) for item in before}
    told = [unsaid.get(id(item), item) for item in items]
    return instead(told, wrong, says(ASKED), answers(f"Yes, go ahead, but make it {given}."), wrong)


def _instructed(task: Task, right: str, party: Party) -> Task:
    scenario = task.scenario
    words = {
        name: getattr(scenario, name).replace(right, "that")
        for name in ("reason_for_call", "instructions", "known_info")
    }
    if party is Party.user_simulator:
        words["instructions"] += f" When asked, say {right}."
    return task.model_copy(update={"scenario": scenario.model_copy(update=words)})


def contradictory(base: Base) -> Iterator[Fault]:
    """A task that demands and forbids the same words."""
    if base.task.knobs.get("family") == "refuse":
        (fact, *_) = base.task.communicate
        task = base.task.model_copy(update={"avoid": (fact,)})
        refusal = next(item for item in base.items if fact.lower() in item.text.lower() and item.role is Role.assistant)
        truth: list = [(Kind.false_refusal, refusal)]
        yield Fault("contradictory task", task, base.items, truth, Kind.false_refusal, Party.task)


def for_itself(base: Base) -> Iterator[Fault]:
    """The gold answer exchanges items for themselves, and the agent returns them."""
    for item in single_writes(base.items):
        call = item.calls[0]
        if call.name != "exchange_delivered_order_items" or call not in base.task.gold:
            continue
        gold = call.model_copy(update={"arguments": call.arguments | {"new_item_ids": call.arguments["item_ids"]}})
        task = base.task.model_copy(update={"gold": tuple(gold if c == call else c for c in base.task.gold)})
        order = base.world.open(task.records).db.orders[call.arguments["order_id"]]
        arguments = {name: call.arguments[name] for name in ("order_id", "item_ids")}
        arguments["payment_method_id"] = order.payment_history[0].payment_method_id
        returned = replace(
            item, calls=(call.model_copy(update={"name": "return_delivered_order_items", "arguments": arguments}),)
        )
        truth: list = [(Kind.extra_write, returned), (Kind.missing_write, None)]
        items = instead(base.items, item, returned)
        yield Fault("gold exchanges for itself", task, items, truth, Kind.extra_write, Party.task)


def gold_refused(base: Base) -> Iterator[Fault]:
    """The gold answer refunds a method that the tools do not allow, and the agent one that they do."""
    for item in single_writes(base.items):
        call = item.calls[0]
        if call.name != "return_delivered_order_items" or call not in base.task.gold:
            continue
        db = base.world.open(base.task.records).db
        order = db.orders[call.arguments["order_id"]]
        paid = order.payment_history[0].payment_method_id
        methods = db.users[order.user_id].payment_methods
        for method in [key for key in methods if key != paid and methods[key].source != "gift_card"][:1]:
            gold = call.model_copy(update={"arguments": call.arguments | {"payment_method_id": method}})
            task = base.task.model_copy(update={"gold": tuple(gold if c == call else c for c in base.task.gold)})
            truth: list = [(Kind.wrong_argument, item)]
            yield Fault("gold refused", task, base.items, truth, Kind.wrong_argument, Party.task)


def breakdown(base: Base) -> Iterator[Fault]:
    """A tool breaks down at the write; and a world that changes by itself."""
    found = single_writes(base.items)
    if len(found) != 1 or len(writing(base.items)) != 1:
        return
    broken = replace(found[0], answer="Error: the request timed out")
    truth: list = [(Kind.tool_error, broken), (Kind.missing_write, None)]
    items = instead(base.items, found[0], broken)
    yield Fault("tool broke down", base.task, items, truth, Kind.tool_error, Party.infrastructure)
    for order in [call.arguments["order_id"] for call in found[0].calls if "order_id" in call.arguments]:
        silent = without(base.items, found[0])
        yield Fault(
            "world changed",
            base.task,
            silent,
            [(Kind.missing_write, None)],
            Kind.missing_write,
            Party.infrastructure,
            delta={"orders": {order: {"order_id": order, "status": "lost"}}},
        )


PLANTERS: tuple[Planter, ...] = (
    leaves,
    noted,
    dictates,
    contradictory,
    for_itself,
    gold_refused,
    breakdown,
)
