"""What a customer wants, grounded in the world, and how the things in it can be told apart.

customer = Customer.of(scene, "yusuf_rossi_9620")
customer.named(item, pool)          # "desk lamp", or "desk lamp with color black", or None: ambiguous
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from sentinel.env.retail import CreditCard, GiftCard, Order, OrderItem, RetailDB, User, Variant

Address = Mapping[str, str]
"""The six fields of a postal address, by tau2's names."""
FIELDS = ("address1", "address2", "city", "state", "zip", "country")


@dataclass(frozen=True)
class Wish:
    """One thing the customer wants; ids are the world's."""

    kind: str
    order: Order | None = None
    items: tuple[OrderItem, ...] = ()
    choices: tuple[Variant, ...] = ()
    """New variants, in the order of `items`."""
    method: str = ""
    """The payment method that is charged or refunded."""
    address: Address | None = None
    profile: bool = False
    """Whether the address is the customer's default one, and called so."""
    reason: str = ""
    product: str = ""
    """Name of the product that is asked about, or wanted in exchange."""
    question: str = "none"
    answer: str = ""
    """What must be communicated."""

    @property
    def order_id(self) -> str:
        """The id of the order, if there is one."""
        return self.order.order_id if self.order else ""


@dataclass(frozen=True)
class Request:
    """A wish as it is opened with, and what becomes of it in the dialogue."""

    first: Wish
    correction: str = "none"
    corrected: Wish | None = None
    """What is wanted in the end; `None` with a correction means nothing."""
    obstacle: str = "none"
    withheld: str = "none"
    described: bool = False
    """Whether the order goes by its contents rather than by its id."""
    follow_up: Wish | None = None
    """A question for the case that the request comes to nothing."""

    @property
    def final(self) -> Wish | None:
        """What a perfect agent does about it; nothing where it is forbidden or withdrawn."""
        if self.obstacle != "none" or self.correction == "declined":
            return None
        return self.corrected or self.first


@dataclass(frozen=True)
class Customer:
    """A user of the world with all orders."""

    user: User
    orders: tuple[Order, ...]
    db: RetailDB

    @classmethod
    def of(cls, db: RetailDB, user_id: str) -> Customer:
        """The customer behind a user id."""
        user = db.users[user_id]
        return cls(user, tuple(db.orders[order] for order in user.orders), db)

    @cached_property
    def everything(self) -> tuple[OrderItem, ...]:
        """All items of all orders."""
        return tuple(item for order in self.orders for item in order.items)

    def named(self, item: OrderItem, pool: Sequence[OrderItem]) -> str | None:
        """The least that tells an item from the others of the pool; `None` where nothing does."""
        rivals = [other.options for other in pool if other.name == item.name and other is not item]
        if not rivals:
            return short(item.name)
        sizes = range(1, len(item.options) + 1)
        subsets = itertools.chain.from_iterable(itertools.combinations(item.options.items(), size) for size in sizes)
        telling = (some for some in subsets if not any(rival.items() >= set(some) for rival in rivals))
        found = next(telling, None)
        return called(item.name, dict(found)) if found else None

    def method_words(self, method_id: str) -> tuple[str, dict[str, str]]:
        """Form and slots of the words for a payment method."""
        method = self.user.payment_methods[method_id]
        alike = [other for other in self.user.payment_methods.values() if other.source == method.source]
        if len(alike) == 1:
            return str(method.source), {}
        if isinstance(method, CreditCard) and sum(other.last_four == method.last_four for other in alike) == 1:
            return "numbered", {"four": method.last_four}
        return "id", {"id": method_id}


def short(name: str) -> str:
    """A product's name within a sentence: 'Desk Lamp' -> 'desk lamp', but 'LED light bulb', 'T-shirt'."""
    return " ".join(_lower(word) for word in name.split(" "))


def _lower(word: str) -> str:
    if word[:2].isupper() or word[1:2] == "-":
        return word[:2] + word[2:].lower() if word[1:2] == "-" else word
    return word if word == "Bluetooth" else word.lower()


def article(name: str) -> str:
    """A product with its article: 'a desk lamp', 'an E-reader', 'sneakers'."""
    if name.endswith("s"):
        return name
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def called(name: str, options: Mapping[str, str]) -> str:
    """A thing by its name and some options: 'red kettle', 'size 6 sneakers', 'desk lamp with power source USB'."""
    match list(options.items()):
        case []:
            return short(name)
        case [("size", size)] if size.isdecimal() or size.isupper():
            return f"size {size} {short(name)}"
        case [("color" | "size", value)]:
            return f"{value} {short(name)}"
        case _:
            return f"{short(name)} with {listed(options)}"


_ABSENT = ("none", "no", "not resistant")
"""Values that say that there is nothing of an option."""


@cache
def told(option: str, value: str) -> str:
    """One option in words: 'color blue', 'no features', 'Brand A' (as 'brand Brand A' says it twice)."""
    if option == "piece count":
        return value.replace("-piece", " pieces")
    if set(re.split(r"\W", option.lower())) & set(re.split(r"\W", value.lower())):
        return value
    named = "waterproofing" if option == "waterproof" else option
    if value == "yes":
        return named
    return f"no {named}" if value in _ABSENT else f"{named} {value}"


def listed(options: Mapping[str, str]) -> str:
    """Options in words: 'color blue, size L and material cotton'."""
    pairs = [told(name, value) for name, value in options.items()]
    return " and ".join([", ".join(pairs[:-1]), pairs[-1]]) if len(pairs) > 1 else "".join(pairs)


def lines(address: Address) -> str:
    """An address in one line, its parts divided by commas; the empty second line is left out."""
    place = f"{address['state']} {address['zip']}"
    parts = (address["address1"], address["address2"], address["city"], place, address["country"])
    return ", ".join(part for part in parts if part)


def changes(old: OrderItem, new: Variant) -> dict[str, str]:
    """The options in which a variant differs from an ordered item."""
    return {name: value for name, value in new.options.items() if old.options.get(name) != value}


def money(amount: float) -> str:
    """An amount as it is communicated: '1093.34'."""
    return f"{amount:.2f}"


def sayable(answer: str) -> bool:
    """Whether an answer can only be said in one way: two decimals that are not shortened, or a long number."""
    return (answer[-3:-2] == "." and answer[-1] != "0" and not answer.startswith("0")) or len(answer) > 6


def affords(user: User, method_id: str, amount: float) -> bool:
    """Whether a payment method covers an amount: only gift cards may not."""
    method = user.payment_methods[method_id]
    return not isinstance(method, GiftCard) or method.balance >= amount


def ids(items: Iterable[OrderItem | Variant]) -> list[str]:
    """Item ids."""
    return [item.item_id for item in items]
