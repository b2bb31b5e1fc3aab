"""The gate of what follows: every argument of a gold write is determined by what user and world reveal.

For tasks in our own language the reference agent proves more (`solved_by_talking`); this gate reads words of any
origin, so it asks for less: each argument is said, or named in a way that leaves one candidate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sentinel.env.overlay import Database
from sentinel.env.retail import Order, OrderItem, User, Variant
from sentinel.proposer.gates.bench import Bench, Case
from sentinel.proposer.natural.wishes import changes, listed, told
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Json, Task, ToolCall

_REASONS: Mapping[str, re.Pattern[str]] = {
    "no longer needed": re.compile(r"no longer|not need|n't need|any ?more|not want it|changed? \w+ mind"),
    "ordered by mistake": re.compile(r"mistake|accident|wrong(?:ly)? order|not mean to|n't mean to"),
}
_ORIGINAL = re.compile(
    r"original|(?:paid|used) (?:for|with|to)|method (?:i|you) used|same (?:payment|method)|(?:way|how) (?:i|you) paid"
)
_PROFILE = re.compile(r"default|profile|my account|your account|on file")
_KINDS = {"paypal": r"paypal", "gift_card": r"gift ?card", "credit_card": r"credit ?card|visa|mastercard"}


def determined(candidate: Task, bench: Bench) -> Rejection | None:
    """No argument of a gold write is left to chance."""
    case = bench.case(candidate)
    if not case.writes or case.customer is None:
        return None
    return next(filter(None, (_open(call, case, case.customer) for call in case.writes)), None)


def _open(call: ToolCall, case: Case, user: User) -> Rejection | None:
    """The first argument of a call that the words leave open."""
    for reason, said in _arguments(call, case, user):
        if not said:
            return Rejection(reason, f"{call.name}({call.arguments})")
    return None


def _arguments(call: ToolCall, case: Case, user: User) -> Iterator[tuple[Reason, bool]]:
    arguments, text = call.arguments, case.text
    order = case.db.orders[str(arguments["order_id"])] if "order_id" in arguments else None
    items = [item for item in order.items if item.item_id in arguments.get("item_ids", ())] if order else []
    if order:
        yield Reason.open_order, _order_told(order, items or order.items, case, user)
    for item in items:
        whole = order is not None and len(items) == len(order.items)
        yield Reason.open_item, whole or _item_told(item, order.items if order else (), text)
    for item, new in zip(items, arguments.get("new_item_ids", ()), strict=False):
        yield Reason.open_choice, _choice_told(item, new, case, single=len(items) == 1)
    if "payment_method_id" in arguments and order:
        original = order.payment_history[0].payment_method_id
        yield Reason.open_payment, _payment_told(arguments["payment_method_id"], original, user, text)
    if "reason" in arguments:
        yield Reason.open_reason, bool(_REASONS[arguments["reason"]].search(text))
    if "address1" in arguments:
        yield Reason.open_address, _address_told(arguments, user, case)


def _says(text: str, words: str) -> bool:
    """Whether a text holds these words, not as part of longer ones; without a regex, which would be a new one each."""
    wanted = words.lower()
    start = text.find(wanted)
    while start >= 0:
        around = text[max(0, start - 1) : start], text[start + len(wanted) : start + len(wanted) + 1]
        if not any(letter.isalnum() or letter == "_" for letter in around):
            return True
        start = text.find(wanted, start + 1)
    return False


def _order_told(order: Order, items: list[OrderItem], case: Case, user: User) -> bool:
    if order.order_id.lower() in case.text:
        return True
    pool = [item for key in user.orders for item in case.db.orders[key].items]
    return any(_item_told(item, pool, case.text) for item in items)


def _item_told(item: OrderItem, pool: list[OrderItem] | tuple[()], text: str) -> bool:
    """Whether an item is named, and told from others of the same name by an option, or by its id."""
    if item.item_id in text:
        return True
    if not _says(text, item.name):
        return False
    for rival in (other for other in pool if other.name == item.name and other is not item):
        telling = {name: value for name, value in item.options.items() if rival.options.get(name) != value}
        if not any(_option_told(name, value, text) for name, value in telling.items()):
            return False
    return True


def _choice_told(item: OrderItem, new: str, case: Case, *, single: bool) -> bool:
    """Whether all that the new variant changes is said; for a single one, also whether no rival is said as well."""
    if new in case.text:
        return True
    product = case.db.products[item.product_id]
    wanted = product.variants[new]
    if any(listed(options).lower() in case.text for options in (wanted.options, changes(item, wanted))):
        return True
    said = _changes_told(item, wanted, case.text)
    if said is None:
        return False
    rivals = [v for v in product.variants.values() if v.available and v.item_id not in (new, item.item_id)]
    also = [changed for v in rivals if (changed := _changes_told(item, v, case.text)) is not None]
    corrected = any(intent.correction for intent in case.task.scenario.intents)
    return not single or corrected or not any(changed >= said for changed in also)


def _changes_told(item: OrderItem, variant: Variant, text: str) -> frozenset[str] | None:
    """The options in which a variant differs from an item, if all are said."""
    changed = {name: value for name, value in variant.options.items() if item.options.get(name) != value}
    if not all(_option_told(name, value, text) for name, value in changed.items()):
        return None
    return frozenset(f"{name} {value}" for name, value in changed.items())


def _option_told(name: str, value: str, text: str) -> bool:
    """Whether an option is said: by its value, by its name ('waterproof'), or as our own grammar says it."""
    ways = {"yes": [name], "no": [f"no {name}", f"not {name}"], "none": [f"no {name}"]}.get(value, [value])
    return any(_says(text, words) for words in [*ways, told(name, value)])


def _payment_told(method_id: str, original: str, user: User, text: str) -> bool:
    if method_id.lower() in text or len(user.payment_methods) == 1:
        return True
    if method_id == original and _ORIGINAL.search(text):
        return True
    method = user.payment_methods[method_id]
    alike = [other for other in user.payment_methods.values() if other.source == method.source]
    if not re.search(_KINDS[method.source], text):
        return False
    return len(alike) == 1 or (getattr(method, "last_four", "?") in text)


def _address_told(arguments: Mapping[str, Json], user: User, case: Case) -> bool:
    fields = {name: arguments[name] for name in user.address.model_dump()}
    if all(_says(case.text, value) for name, value in fields.items() if value and name != "country"):
        return True
    return bool(_PROFILE.search(case.text)) and fields in _known_addresses(user, case.db)


def _known_addresses(user: User, db: Database) -> list[dict[str, str]]:
    return [user.address.model_dump(), *(db.orders[key].address.model_dump() for key in user.orders)]
