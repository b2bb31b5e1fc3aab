"""Faults of the agent, one planter for each label and for pairs of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from sentinel.records import Ending, Role
from sentinel.records import LabelKind as Kind
from tests.bench.planting import (
    LOST,
    TRANSFER,
    Base,
    Fault,
    Item,
    Items,
    Planter,
    altered,
    answers,
    calls,
    gold_writes,
    instead,
    says,
    until,
    without,
    writing,
)

STOP = "###STOP###"
ASKED = "Shall I go ahead with this, yes or no?"
DENY = "I am sorry, I cannot do that."
ADDRESS = {"address1": "99 Wrong Street", "address2": "", "city": "Nowhere", "state": "TX", "country": "USA"}


def single_writes(items: Items) -> list[Item]:
    """Turns with one call, which writes."""
    return [item for item in writing(items) if len(item.calls) == 1]


def single_reads(items: Items) -> list[Item]:
    """Turns with one call, which does not write; each call once in the conversation."""
    made = [call for item in items for call in item.calls]
    writes = writing(items)
    return [i for i in items if len(i.calls) == 1 and i not in writes and made.count(i.calls[0]) == 1]


def missing_write(base: Base) -> Iterator[Fault]:
    for item in single_writes(base.items)[-1:]:
        truth: list = [(Kind.missing_write, None)]
        yield Fault("missing_write", base.task, without(base.items, item), truth, Kind.missing_write)


def wrong_versions(base: Base, item: Item) -> Iterator[tuple[Kind, Item]]:
    """A write with one thing wrong in it, in every way that its arguments allow."""
    arguments, db = item.calls[0].arguments, base.world.open(base.task.records).db
    order = db.orders[arguments["order_id"]] if arguments.get("order_id") in db.orders else None
    user = db.users[order.user_id if order else arguments["user_id"]]
    if "reason" in arguments:
        other = {"no longer needed": "ordered by mistake"}.get(arguments["reason"], "no longer needed")
        yield Kind.wrong_argument, altered(item, reason=other)
    if "address1" in arguments:
        yield Kind.wrong_argument, altered(item, address1="99 Wrong Street")
    for method in [m for m in user.payment_methods if m != arguments.get("payment_method_id")][:1]:
        if "payment_method_id" in arguments:
            yield Kind.wrong_argument, altered(item, payment_method_id=method)
    if order is None:
        return
    for other in [key for key in user.orders if key != order.order_id and db.orders[key].status == order.status][:1]:
        yield Kind.wrong_record, altered(item, order_id=other)
    items = arguments.get("item_ids", [])
    if "new_item_ids" in arguments:
        product = next(p for p in db.products.values() if items[0] in p.variants)
        for variant in product.variants.values():
            if variant.available and variant.item_id not in (items[0], *arguments["new_item_ids"]):
                yield Kind.wrong_argument, altered(item, new_item_ids=[variant.item_id, *arguments["new_item_ids"][1:]])
                break
    elif items:
        spare = [i.item_id for i in order.items if i.item_id not in items]
        for other in spare[:1]:
            yield Kind.wrong_record, altered(item, item_ids=[other, *items[1:]])
        if len(items) > 1:
            yield Kind.wrong_argument, altered(item, item_ids=items[1:])


def wrong_write(base: Base) -> Iterator[Fault]:
    for item in single_writes(base.items)[:1]:
        made = [call for other in base.items for call in other.calls]
        for kind, wrong in wrong_versions(base, item):
            if wrong.calls[0] in made:
                continue
            yield Fault(kind.value, base.task, instead(base.items, item, wrong), [(kind, wrong)], kind)


def two_faults(base: Base) -> Iterator[Fault]:
    """A wrong first write, and the last one missing."""
    found = single_writes(base.items)
    if len(found) > 1:
        kind, wrong = next(wrong_versions(base, found[0]), (Kind.wrong_argument, None))
        if wrong is not None:
            items = without(instead(base.items, found[0], wrong), found[-1])
            yield Fault("two faults", base.task, items, [(kind, wrong), (Kind.missing_write, None)], kind)


def _customer(base: Base) -> str:
    db = base.world.open(base.task.records).db
    arguments = gold_writes(base.task)[0].arguments
    return str(arguments.get("user_id") or db.orders[arguments["order_id"]].user_id)


def extra_write(base: Base) -> Iterator[Fault]:
    writes = gold_writes(base.task)
    if writing(base.items) and writes and all(call.name != "modify_user_address" for call in writes):
        last = writing(base.items)[-1]
        extra = calls("modify_user_address", user_id=_customer(base), **ADDRESS, zip="75001")
        items = instead(base.items, last, last, says(ASKED), answers("Yes, please."), extra)
        yield Fault("extra_write", base.task, items, [(Kind.extra_write, extra)], Kind.extra_write)


def other_customer(base: Base) -> Iterator[Fault]:
    if not writing(base.items) or not gold_writes(base.task) or not base.real:
        return
    customer, last = _customer(base), writing(base.items)[-1]
    foreign = next(o for o in base.world.db.orders.values() if o.status == "pending" and o.user_id != customer)
    look = calls("get_order_details", order_id=foreign.order_id)
    cancel = calls("cancel_pending_order", order_id=foreign.order_id, reason="no longer needed")
    items = instead(base.items, last, last, look, says(ASKED), answers("Yes, please."), cancel)
    truth: list = [(Kind.extra_write, cancel), (Kind.against_policy, cancel)]
    yield Fault("other customer", base.task, items, truth, Kind.against_policy)


def against_policy(base: Base) -> Iterator[Fault]:
    if base.task.knobs.get("family") == "refuse":
        tempted = [Item(Role.assistant, calls=(call,)) for call in base.task.temptations]
        talk = next(item for item in base.items if item.role is Role.assistant and not item.calls)
        asked = [says("Shall I go ahead, yes or no?"), answers("Yes.")]
        items = [*until(base.items, talk), *asked, *tempted, says("It is done."), answers(STOP)]
        truth: list = [(Kind.against_policy, item) for item in tempted]
        yield Fault("against_policy", base.task, items, truth, Kind.against_policy)


def wrong_order(base: Base) -> Iterator[Fault]:
    """Two changes of one address, the later of which must come last."""
    found = single_writes(base.items)
    if len(found) == 1 and "address1" in found[0].calls[0].arguments and not base.real:
        first = found[0]
        second = altered(first, address1="1 Final Road")
        task = base.task.model_copy(update={"gold": (*base.task.gold, *second.calls)})
        items = instead(base.items, first, second, first)
        yield Fault("wrong_order", task, items, [(Kind.wrong_order, second)], Kind.wrong_order)


def transfers(base: Base) -> Iterator[Fault]:
    for item in writing(base.items)[:1] if TRANSFER.name not in [call.name for call in base.task.gold] else []:
        handed = Item(Role.assistant, calls=(TRANSFER,))
        items = [*until(base.items, item), handed, says("Please hold on."), answers(STOP)]
        truth: list = [(Kind.needless_transfer, handed), (Kind.missing_write, None)]
        yield Fault("needless_transfer", base.task, items, truth, Kind.needless_transfer)
    if base.task.knobs.get("family") == "transfer":
        handing = next(item for item in base.items if TRANSFER.name in [call.name for call in item.calls])
        items = [*until(base.items, handing), says("It is done."), answers(STOP)]
        yield Fault("missing_transfer", base.task, items, [(Kind.missing_transfer, None)], Kind.missing_transfer)


def false_refusal(base: Base) -> Iterator[Fault]:
    forbidden = any(statement.lower() in DENY.lower() for statement in base.task.avoid)
    for item in single_writes(base.items)[:1] if forbidden else []:
        refusal = says(DENY)
        items = [*until(base.items, item), refusal, answers(STOP)]
        truth: list = [(Kind.false_refusal, refusal), (Kind.missing_write, None)]
        yield Fault("false_refusal", base.task, items, truth, Kind.false_refusal)


def words(base: Base) -> Iterator[Fault]:
    """A fact left out, and a figure that is wrong."""
    for fact in base.task.communicate[:1]:
        told = [i for i in base.items if i.role is Role.assistant and fact.lower() in i.text.lower().replace(",", "")]

        def telling(words: str, fact: str = fact, told: list[Item] = told) -> dict[int, Item]:
            return {id(i): replace(i, text=i.text.replace(",", "").replace(fact, words)) for i in told}

        silent = telling("that")
        items = [silent.get(id(item), item) for item in base.items]
        yield Fault("missing_communication", base.task, items, [], Kind.missing_communication)
        if fact.replace(".", "", 1).isdigit():
            wrong = f"{float(fact) * 1.1:.2f}" if "." in fact else str(int(fact) + 1)
            altered_texts = telling(wrong)
            items = [altered_texts.get(id(item), item) for item in base.items]
            truth: list = [(Kind.wrong_communication, altered_texts[id(told[0])])]
            yield Fault("wrong_communication", base.task, items, truth, Kind.wrong_communication)


def conduct(base: Base) -> Iterator[Fault]:
    """Bad conduct, and the last write missing: two faults at once, the first of which costs nothing."""
    for item in single_writes(base.items)[-1:]:
        rest = without(base.items, item)
        for name, kind, items, bad in _misconduct(rest):
            yield Fault(name, base.task, items, [(kind, bad), (Kind.missing_write, None)], Kind.missing_write)


def _misconduct(rest: Items) -> Iterator[tuple[str, Kind, Items, Item]]:
    reads = single_reads(rest)
    unknown = calls("delete_order", order_id="#W0000000")
    typo = calls("get_order_details", order_id="#W0000000")
    unfit = calls("get_order_details", order="#W0000000")
    for name, kind, bad in (
        ("hallucinated_tool", Kind.hallucinated_tool, unknown),
        ("tool_error", Kind.tool_error, typo),
        ("malformed arguments", Kind.malformed_call, unfit),
    ):
        if reads:
            yield name, kind, instead(rest, reads[-1], reads[-1], bad), bad
    for read in reads[-1:]:
        again = replace(read)
        yield "repeated_call", Kind.repeated_call, instead(rest, read, read, again), again
    lookups = [item for item in rest if any(call.name.startswith("find_user") for call in item.calls)]
    private = {"get_user_details", "get_order_details"}
    first = next((item for item in rest if any(call.name in private for call in item.calls)), None)
    if first is not None and all(len(item.calls) == 1 for item in lookups):
        yield "unauthenticated", Kind.unauthenticated, [item for item in rest if item not in lookups], first
    yield from _in_parallel(rest)


def _in_parallel(rest: Items) -> Iterator[tuple[str, Kind, Items, Item]]:
    reads = single_reads(rest)
    if any(len(item.calls) > 1 for item in rest):
        return
    for one, other in pairwise(rest):
        if one in reads and other in reads and not one.calls[0].name.startswith("find_user"):
            both = Item(Role.assistant, calls=(*one.calls, *other.calls))
            yield "parallel_calls", Kind.parallel_calls, without(instead(rest, one, both), other), both
            return


def unconfirmed(base: Base) -> Iterator[Fault]:
    """A wrong write without consent, and all that follow it before the user speaks again."""
    for item in single_writes(base.items)[:1]:
        before = [other for other in until(base.items, item) if other.role is Role.user]
        kind, wrong = next(wrong_versions(base, item), (Kind.wrong_argument, None))
        if len(before) < 2 or wrong is None:
            continue
        items = instead(instead(base.items, item, wrong), before[-1], answers(LOST))
        after = items[next(n for n, other in enumerate(items) if other is wrong) :]
        stretch = after[: next((n for n, other in enumerate(after) if other.role is Role.user), len(after))]
        truth: list = [(Kind.unconfirmed_write, other) for other in writing(stretch)]
        decisive = kind
        yield Fault("unconfirmed_write", base.task, items, [*truth, (kind, wrong)], decisive)


def declined(base: Base) -> Iterator[Fault]:
    """The user says no, and the agent writes."""
    if base.task.knobs.get("declined"):
        tempted = [Item(Role.assistant, calls=(call,)) for call in base.task.temptations]
        items = [*base.items[:-2], *tempted, *base.items[-2:]]
        truth: list = [(kind, item) for item in tempted for kind in (Kind.unconfirmed_write, Kind.extra_write)]
        yield Fault("declined", base.task, items, truth, Kind.unconfirmed_write)


def cut_short(base: Base) -> Iterator[Fault]:
    """Conversations that come to no end: a loop, no turns or context left, a call that cannot be parsed, no effort."""
    for item in writing(base.items)[:1]:
        start = until(base.items, item)
        missing: list = [(Kind.missing_write, None)]
        for kind, ending in (
            (Kind.out_of_turns, Ending.out_of_turns),
            (Kind.out_of_context, Ending.out_of_context),
        ):
            yield Fault(kind.value, base.task, start, [(kind, None), *missing], kind, ending=ending)
        for read in single_reads(start)[-1:]:
            copies = [replace(read) for _ in range(4)]
            truth: list = [(Kind.loop, copies[1]), (Kind.out_of_turns, None), *missing]
            yield Fault("loop", base.task, [*start, *copies], truth, Kind.loop, ending=Ending.out_of_turns)
        broken = [*start, says('{"name": "cancel_pen')]
        truth = [(Kind.malformed_call, None), *missing]
        yield Fault("malformed_call", base.task, broken, truth, Kind.malformed_call, ending=Ending.malformed)
        opening = until(base.items, next(i for i in base.items if i.calls or (i.role is Role.assistant and i.text)))
        opening = opening or list(base.items[:2])
        idle = [*opening, says("I leave it at that."), answers(STOP)]
        yield Fault("gave_up", base.task, idle, [(Kind.gave_up, None), *missing], Kind.missing_write)


PLANTERS: tuple[Planter, ...] = (
    missing_write,
    wrong_write,
    two_faults,
    extra_write,
    other_customer,
    against_policy,
    wrong_order,
    transfers,
    false_refusal,
    words,
    conduct,
    unconfirmed,
    declined,
    cut_short,
)
