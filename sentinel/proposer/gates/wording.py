"""Gates of the words: what must be told can be known and is not given away, and the user speaks only of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sentinel.env.overlay import TOOLS
from sentinel.env.user_faults import identifiers
from sentinel.proposer.gates.bench import Bench, Case
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Task

SHORTEST = 3
"""Characters of a fact that is not in other words by accident."""
_AMOUNT = re.compile(r"\d+\.\d+")
_MONEY = re.compile(r"\$\s?(\d+(?:\.\d+)?)|(\d+\.\d{2})(?!\d)")
_TO_READER = re.compile(
    r"###|\bas an ai\b|language model|system prompt|previous instructions|gold answer|evaluat(?:or|ion)|\breward\b"
    r"|user simulat|\bthe tool\b|</?\w+>|\{\{|\bassistant must\b|</"
)


def communicate(candidate: Task, bench: Bench) -> Rejection | None:
    """Every fact to tell is long enough, written as anybody would write it, not said by the user, and the world's."""
    case = bench.case(candidate)
    return next(filter(None, (_fact(needle, case) for needle in candidate.communicate)), None)


def _fact(needle: str, case: Case) -> Rejection | None:
    if len(needle.strip()) < SHORTEST:
        return Rejection(Reason.too_short, f"{needle!r} is in many words by accident")
    if needle.lower() in case.text:
        return Rejection(Reason.given_away, f"the user says {needle!r} itself")
    if not any(letter.isdigit() for letter in needle):
        return None
    if _AMOUNT.fullmatch(needle) and (needle.endswith("0") or len(needle.partition(".")[2]) != 2):
        return Rejection(Reason.many_spellings, f"{needle!r} may be written without its last digit, or with one more")
    if needle not in case.observed and needle not in set(_computed(case)):
        return Rejection(Reason.invented_amount, f"{needle!r} follows from nothing that the gold answer reads")
    return None


def _computed(case: Case) -> Iterator[str]:
    """Amounts that follow from the gold writes: what a return brings, what an exchange costs."""
    prices = {key: variant.price for product in case.db.products.values() for key, variant in product.variants.items()}
    for call in case.writes:
        order = case.db.orders.get(str(call.arguments.get("order_id")))
        items = call.arguments.get("item_ids", ())
        if order is None or not items:
            continue
        old = sum(item.price for item in order.items if item.item_id in items)
        new = sum(prices.get(item, 0.0) for item in call.arguments.get("new_item_ids", ()))
        yield f"{old:.2f}"
        yield f"{abs(new - old):.2f}"


def wording(candidate: Task, bench: Bench) -> Rejection | None:
    """The words are a user's: nothing that exists nowhere, nothing of other people, nothing to whoever reads along."""
    case = bench.case(candidate)
    if (found := _TO_READER.search(case.text)) or (found := _tool_name(case.text)):
        return Rejection(Reason.addresses_reader, found[0])
    allowed = _allowed(case)
    for name in identifiers(case.text) - allowed:
        reason = Reason.other_person if _exists(name, case) else Reason.invented_name
        return Rejection(reason, name)
    for dollars, cents in _MONEY.findall(case.text):
        amount = dollars or cents
        if f"{float(amount):.2f}" not in _amounts(case):
            return Rejection(Reason.invented_price, amount)
    return None


_TOOL = re.compile(r"\b(?:" + "|".join(TOOLS) + r")\b")


def _tool_name(text: str) -> re.Match[str] | None:
    return _TOOL.search(text)


def _allowed(case: Case) -> set[str]:
    """What the user may name: its own records, and what gold answer and temptations name."""
    own: set[str] = set()
    if customer := case.customer:
        own = {customer.user_id, customer.email, *customer.orders, *customer.payment_methods}
        own |= {item.item_id for key in customer.orders for item in case.db.orders[key].items}
    for call in (*case.task.gold, *case.task.temptations):
        for value in call.arguments.values():
            own |= set(map(str, value)) if isinstance(value, list) else {str(value)}
    return {name.lower().lstrip("#") for name in own}


def _exists(name: str, case: Case) -> bool:
    """Whether somebody else in this world is called so, or owns it."""
    db = case.db
    if name in db.users or any(key.lstrip("#").lower() == name for key in db.orders):
        return True
    return any(user.email.lower() == name or name in user.payment_methods for user in db.users.values())


def _amounts(case: Case) -> set[str]:
    """Amounts that the user may know: what its gold answer reads, and what follows from it."""
    read = {f"{float(found):.2f}" for found in re.findall(r"\d+(?:\.\d+)?", case.observed)}
    return read | set(_computed(case))
