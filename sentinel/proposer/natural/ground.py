"""Grounding: what a kind of task asks for, found among the orders of one customer.

    requests = Grounding(kind, customer, others, rng).requests()     # None where it cannot happen to this customer

Every request is about another order, except that an address may change on an order that changes otherwise as well.
What is drawn here (which order, item, variant, payment method) is decided before a word is said.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from sentinel.env.retail import GiftCard, Order, OrderItem, Variant
from sentinel.env.vocabulary import vocabulary
from sentinel.proposer.natural.kinds import SHARES, WRITES, Kind
from sentinel.proposer.natural.wishes import Address, Customer, Request, Wish, affords, changes, money, sayable

T = TypeVar("T")
_STATUS = {"return": "delivered", "exchange": "delivered"}
"""The status that a write needs; all others on orders need `pending`."""
_WRONG = {"pending": ("delivered", "processed"), "delivered": ("pending", "processed")}
_WITH_ADDRESS = frozenset({"items", "payment"})
"""Changes that leave the order open for another address, and the other way round."""
_ADDRESS = frozenset({"address"})
_PROFILE = "profile"
"""Stands for what is about no order."""
_SHARES = (np.array(SHARES) / sum(SHARES)).tolist()
_REASONS = ("no longer needed", "ordered by mistake")
ORIGINAL_SHARE = 0.6
DESCRIBED_SHARE = 0.5
PROFILE_SHARE = 0.4
LINES = (100, 1000)
"""House numbers."""


class Grounding:
    """One attempt to make a task of a kind for a customer."""

    def __init__(self, kind: Kind, customer: Customer, others: Sequence[Customer], rng: np.random.Generator) -> None:
        self._kind, self._customer, self._others, self._rng = kind, customer, others, rng
        self._used: dict[str, frozenset[str]] = {}
        self._home: Address | None = None
        """The new address that was spoken of: nobody moves to two places at once."""
        self._to_old_home = False
        """Whether something is to be sent to the default address as it was at first."""

    def requests(self) -> list[Request] | None:
        """One request per wish of the kind, or `None`."""
        found: list[Request] = []
        for number, name in enumerate(self._kind.requests):
            kind = self._kind if number == 0 else Kind(condition="", family="", requests=(), question=self._later())
            if (request := self._any(kind) if name == "any" else self._request(name, kind)) is None:
                return None
            found.append(request)
        return found

    def _later(self) -> str:
        """The question of an `ask` that comes after the first request."""
        return self._kind.question if self._kind.question == "total" else "none"

    def _any(self, kind: Kind) -> Request | None:
        """The first of the writes, in random order, that fits."""
        for name in self._shuffled_writes():
            if kind.obstacle != "none" and name == "user_address":
                continue
            if request := self._request(name, kind):
                return request
        return None

    def _shuffled_writes(self) -> list[str]:
        """All writes, the frequent ones first as a rule: drawn without replacement by their shares.

        Draws as `rng.choice(…, replace=False, p=…)` does, which takes ten times as long for so few: as many numbers as
        are missing, of which each new write counts once, until there are all.
        """
        shares, found = list(_SHARES), list[int]()
        while len(found) < len(shares):
            for place in found:
                shares[place] = 0.0
            sums = list(itertools.accumulate(shares))
            sums = [each / sums[-1] for each in sums]
            drawn = [bisect.bisect_right(sums, x) for x in self._rng.random(len(shares) - len(found)).tolist()]
            found += dict.fromkeys(drawn)
        return [WRITES[place] for place in found]

    def _request(self, name: str, kind: Kind) -> Request | None:
        match name:
            case "user_address" if _PROFILE in self._used or self._to_old_home:
                request = None
            case "user_address":
                request = self._with_correction(Request(Wish(name, address=self._home or self._new_address())), kind)
            case "transfer":
                request = Request(Wish(name))
            case "ask" if kind.question == "price":
                request = self._price()
            case _ if kind.obstacle == "customer":
                request = self._friends()
            case _:
                request = self._about_order(name, kind)
        if request is None:
            return None
        if request.obstacle != "none" or request.correction == "declined":
            alone = len(self._kind.requests) == 1
            request = replace(request, follow_up=self._follow_up(request.first.order_id)) if alone else request
            if len(self._kind.requests) == 1 and request.follow_up is None:
                return None
        done = request.final.kind if request.final else "refused"
        self._used[request.first.order_id or _PROFILE] = self._used.get(request.first.order_id, frozenset()) | {done}
        self._to_old_home |= request.first.profile
        self._home = self._home if request.first.profile else request.first.address or self._home
        return replace(request, withheld=kind.withheld)

    def _about_order(self, name: str, kind: Kind) -> Request | None:
        for order in self._shuffled(self._customer.orders):
            if self._open(order, name, kind) and (request := self._on(order, name, kind)):
                return self._with_correction(request, kind)
        return None

    def _open(self, order: Order, name: str, kind: Kind) -> bool:
        """Whether the order is in the right status (or, as an obstacle, in a wrong one), and not yet spoken of."""
        before = self._used.get(order.order_id, frozenset())
        beside = _WITH_ADDRESS if name == "address" else _ADDRESS if name in _WITH_ADDRESS else frozenset[str]()
        if not before <= beside:
            return False
        if name == "ask":
            return True
        wanted = _STATUS.get(name, "pending")
        return order.status in _WRONG[wanted] if kind.obstacle == "status" else order.status == wanted

    def _on(self, order: Order, name: str, kind: Kind) -> Request | None:
        """The request about this order, without corrections."""
        if name in ("return", "exchange", "items"):
            return self._about_items(order, name, kind)
        described = kind.withheld != "order" and order.order_id not in self._used and self._chance(DESCRIBED_SHARE)
        described = described and kind.obstacle != "partial" and self._content(order) is not None
        request = Request(Wish(name, order), described=described, obstacle=kind.obstacle)
        match name:
            case "cancel" if kind.obstacle == "partial":
                item = self._pick(order.items)
                known = len(order.items) > 1 and self._customer.named(item, order.items)
                return replace(request, first=replace(request.first, items=(item,))) if known else None
            case "cancel":
                reason = "other" if kind.obstacle == "reason" else self._pick(_REASONS)
                return replace(request, first=replace(request.first, reason=reason))
            case "address":
                return replace(request, first=self._destination(request.first, order))
            case "payment":
                method = self._other_method(order, kind)
                return replace(request, first=replace(request.first, method=method)) if method else None
            case _:
                wish = self._question(order, kind.question)
                return replace(request, first=wish) if wish else None

    def _content(self, order: Order) -> OrderItem | None:
        """An item by which the order can be told from all others."""
        pool = self._customer.everything
        return next((item for item in order.items if self._customer.named(item, pool)), None)

    def _about_items(self, order: Order, name: str, kind: Kind) -> Request | None:
        items = self._items(order, name, kind)
        if not items:
            return None
        described = kind.obstacle in ("none", "method", "stock") and self._chance(DESCRIBED_SHARE)
        described = described and order.order_id not in self._used
        pool = self._customer.everything
        described = (
            described and len(items) <= 2 and all(self._customer.named(item, pool) is not None for item in items)
        )
        described = described and not (name == "return" and len(items) == len(order.items) > 1)
        if not described and not all(self._customer.named(item, order.items) for item in items):
            return None
        if kind.obstacle == "product":
            return self._other_product(order, items)
        chosen: list[Variant] = []
        for item in items if name != "return" else ():
            options = self._variants(item, sold_out=kind.obstacle == "stock")
            if not options:
                return None
            chosen.append(self._pick(options))
        wish = Wish(name, order, items, tuple(chosen))
        method = self._refund(order, kind) if name == "return" else self._payer(wish)
        told = self._told(replace(wish, method=method), kind) if method else None
        return Request(told, described=described, obstacle=kind.obstacle) if told else None

    def _items(self, order: Order, name: str, kind: Kind) -> tuple[OrderItem, ...]:
        if kind.correction == "drop":
            count = 2
        elif name == "return" and kind.obstacle == "none" and kind.items is None:
            count = int(self._rng.choice([1, 2, len(order.items)], p=[0.5, 0.3, 0.2]))
            count = 1 if kind.reference == "similar" else count
        else:
            count = kind.items or (2 if name == "exchange" and kind.withheld == "none" and self._chance(0.2) else 1)
            count = 1 if kind.correction != "none" or kind.obstacle != "none" else count
        if count > len(order.items):
            return ()
        places = sorted(int(n) for n in self._rng.choice(len(order.items), size=count, replace=False))
        items = tuple(order.items[n] for n in places)
        if kind.reference == "similar" and not any(self._has_twin(item) for item in items):
            return ()
        return items if len({item.item_id for item in order.items}) == len(order.items) else ()

    def _has_twin(self, item: OrderItem) -> bool:
        twins = [other for other in self._customer.everything if other.product_id == item.product_id]
        return len(twins) > 1

    def _variants(self, item: OrderItem, sold_out: bool = False) -> list[Variant]:
        variants = self._customer.db.products[item.product_id].variants.values()
        return [v for v in variants if v.available != sold_out and v.item_id != item.item_id and changes(item, v)]

    def _refund(self, order: Order, kind: Kind) -> str:
        """The method a return is refunded to: the original, a gift card, or (forbidden) another one."""
        original = order.payment_history[0].payment_method_id
        others = [method for method in self._customer.user.payment_methods.values() if method.id != original]
        cards = [method.id for method in others if isinstance(method, GiftCard)]
        if kind.obstacle == "method":
            pool = [method.id for method in others if not isinstance(method, GiftCard)]
        elif kind.method == "named":
            pool = cards
        else:
            pool = [original] if not cards or self._chance(ORIGINAL_SHARE) else cards
        return self._pick(pool) if pool and original in self._customer.user.payment_methods else ""

    def _payer(self, wish: Wish) -> str:
        """A method that settles the price difference."""
        if wish.order is None:
            return ""
        original = str(wish.order.payment_history[0].payment_method_id)
        due = difference(wish)
        able = [method for method in self._customer.user.payment_methods if affords(self._customer.user, method, due)]
        if original in able and self._chance(ORIGINAL_SHARE):
            return original
        return self._pick(able) if able else ""

    def _other_method(self, order: Order, kind: Kind) -> str:
        """Another method that covers the order or, as an obstacle, a gift card that does not."""
        paid = order.payment_history[0]
        others = [method for method in self._customer.user.payment_methods if method != paid.payment_method_id]
        able = [method for method in others if affords(self._customer.user, method, paid.amount)]
        pool = [method for method in others if method not in able] if kind.obstacle == "balance" else able
        return self._pick(pool) if pool and len(order.payment_history) == 1 else ""

    def _told(self, wish: Wish, kind: Kind) -> Wish | None:
        """The wish with the answer that the user wants besides."""
        if kind.question not in ("refund", "difference"):
            return wish
        amount = sum(item.price for item in wish.items) if kind.question == "refund" else abs(difference(wish))
        answer = money(amount)
        return replace(wish, question=kind.question, answer=answer) if sayable(answer) else None

    def _question(self, order: Order, question: str) -> Wish | None:
        topic = question if question != "none" else "total"
        if topic == "tracking":
            numbers = [number for sent in order.fulfillments for number in sent.tracking_id]
            answer = numbers[0] if len(numbers) == 1 else ""
        else:
            answer = money(order.payment_history[0].amount)
        return Wish("ask", order, question=topic, answer=answer) if sayable(answer) else None

    def _follow_up(self, refused: str) -> Wish | None:
        """A question about an order that nothing else is wanted of."""
        pool = [order for order in self._customer.orders if order.order_id not in (refused, *self._used)]
        return next(filter(None, (self._question(order, "total") for order in self._shuffled(pool))), None)

    def _price(self) -> Request | None:
        products = list(self._customer.db.products.values())
        product = self._pick(products)
        variant = self._pick(list(product.variants.values()))
        answer = money(variant.price)
        wish = Wish("ask", choices=(variant,), product=product.name, question="price", answer=answer)
        return Request(wish) if sayable(answer) else None

    def _friends(self) -> Request | None:
        orders = [order for other in self._others for order in other.orders if order.status == "pending"]
        if not orders:
            return None
        return Request(Wish("cancel", self._pick(orders), reason=self._pick(_REASONS)), obstacle="customer")

    def _other_product(self, order: Order, items: tuple[OrderItem, ...]) -> Request | None:
        products = [p for p in self._customer.db.products.values() if p.product_id != items[0].product_id]
        if not products:
            return None
        product = self._pick(products)
        variants = [v for v in product.variants.values() if v.available]
        if not variants:
            return None
        original = order.payment_history[0].payment_method_id
        wish = Wish("exchange", order, items, (self._pick(variants),), original, product=product.name)
        return Request(wish, obstacle="product")

    def _destination(self, wish: Wish, order: Order) -> Wish:
        home = self._customer.user.address
        if home != order.address and _PROFILE not in self._used and self._chance(PROFILE_SHARE):
            return replace(wish, address=home.model_dump(), profile=True)
        return replace(wish, address=self._home or self._new_address())

    def _new_address(self) -> Address:
        """A house that nobody lives in, in a town of the world."""
        words = vocabulary()
        town = self._pick([customer.user.address for customer in (self._customer, *self._others)]).model_dump()
        street = f"{self._pick(words['streets'])} {self._pick(words['street_kinds'])}"
        line = f"{int(self._rng.integers(*LINES))} {street}"
        second = f"Suite {int(self._rng.integers(*LINES))}" if self._chance(0.5) else ""
        return {**town, "address1": line, "address2": second}

    def _with_correction(self, request: Request, kind: Kind) -> Request | None:
        first, corrected = request.first, None
        match kind.correction:
            case "choice":
                others = [v for v in self._variants(first.items[0]) if v.item_id != first.choices[0].item_id]
                others = [
                    v for v in others if affords(self._customer.user, first.method, v.price - first.items[0].price)
                ]
                corrected = replace(first, choices=(self._pick(others),)) if others else None
            case "drop":
                kept = self._pick(first.items)
                corrected = replace(first, items=tuple(item for item in first.items if item is not kept))
            case "address":
                corrected = replace(first, address=self._new_address(), profile=False)
        if kind.correction not in ("none", "declined") and corrected is None:
            return None
        return replace(request, correction=kind.correction, corrected=corrected)

    def _shuffled(self, values: Sequence[T]) -> list[T]:
        return [values[int(n)] for n in self._rng.permutation(len(values))]

    def _pick(self, values: Sequence[T]) -> T:
        return values[int(self._rng.integers(len(values)))]

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)


def difference(wish: Wish) -> float:
    """What the new variants cost more than the old items."""
    new, old = sum(v.price for v in wish.choices), sum(item.price for item in wish.items)
    return float(round(new - old, 2))
