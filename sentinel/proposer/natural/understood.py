"""What the reference agent has understood of the user's wishes, and how it finds in the world what is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sentinel.proposer.natural.grammar import Heard, read_phrase
from sentinel.proposer.natural.wishes import called, listed, short, told
from sentinel.records import Json

_PAIRS = re.compile(r", | and ")
_KINDS = {
    "address_order": "address",
    "payment_order": "payment",
    "partial": "cancel",
    "friend": "cancel",
    "exchange_product": "exchange",
}
_REASONS = {
    "reason_no_longer_needed": "no longer needed",
    "reason_ordered_by_mistake": "ordered by mistake",
    "reason_other": "other",
}


class Lost(Exception):
    """The words and the world do not tell what is meant."""


@dataclass
class Profile:
    """What the agent has read about its customer."""

    user_id: str
    user: Json = field(default_factory=dict)
    orders: dict[str, Json] = field(default_factory=dict)
    products: dict[str, Json] = field(default_factory=dict)


@dataclass
class Open:
    """A wish as far as it is understood."""

    topic: str
    kind: str
    slots: dict[str, str]
    reason: str = ""
    payment: str = ""
    question: str = ""
    order: Json = field(default_factory=dict)
    kept: str = ""
    """An item that is not returned after all."""
    refused: str = ""

    @classmethod
    def of(cls, heard: Heard) -> Open:
        """A wish that was just opened."""
        kind = heard.topic.removesuffix("_described").removesuffix("_two").removesuffix("_all")
        return cls(heard.topic, _KINDS.get(kind, kind), dict(heard.slots))

    @property
    def order_words(self) -> str:
        """How the order is named."""
        return self.slots.get("order", "")

    @property
    def order_number(self) -> str:
        """The order's id, if it was said."""
        heard = read_phrase("order", self.order_words)
        return heard.slots.get("id", "") if heard else ""

    @property
    def contents(self) -> list[str]:
        """What the order holds, by which it is to be found."""
        if self.order_words:
            heard = read_phrase("order", self.order_words)
            return [heard.slots["content"]] if heard and "content" in heard.slots else []
        return self.items

    @property
    def items(self) -> list[str]:
        """The items that are meant, in words."""
        return [self.slots[name] for name in ("item", "second") if name in self.slots]

    @property
    def choices(self) -> list[str]:
        """The variants that are wanted, in words."""
        return [self.slots[name] for name in ("choice", "second_choice") if name in self.slots]

    def modify(self, heard: Heard) -> None:
        """A sentence that says more about this wish."""
        if heard.topic in _REASONS:
            self.reason = _REASONS[heard.topic]
        elif heard.topic in ("refund", "difference"):
            self.question = heard.topic
        else:
            self.payment = heard.slots["payment"]

    def take(self, answers: Iterable[Heard]) -> None:
        """The answer to a question about it."""
        for heard in answers:
            if heard.topic == "fact/order":
                self.slots["order"] = heard.slots["order"]
            elif not heard.topic.startswith(("fact", "correction")):
                self.modify(heard)

    def correct(self, heard: Heard) -> None:
        """What the user takes back."""
        match heard.topic:
            case "correction/choice":
                self.slots["choice"] = heard.slots["choice"]
            case "correction/drop":
                self.kept = heard.slots["item"]
            case "correction/address":
                self.slots["address"] = heard.slots["address"]
            case _:
                raise Lost(f"{heard.topic} of {self.kind}")


def _fits(item: Json, words: str) -> bool:
    """Whether an item can be called so: by its name, and by all options that are said."""
    alone = ({name: value} for name, value in item["options"].items() if name in ("color", "size"))
    if any(called(item["name"], each).lower() == words.lower() for each in alone):
        return True
    name, _, options = words.partition(" with ")
    if short(item["name"]).lower() != name.lower():
        return False
    own = {told(option, value).lower() for option, value in item["options"].items()}
    return not options or own.issuperset(part.lower() for part in _PAIRS.split(options))


def matching_orders(orders: Sequence[Json], contents: Sequence[str]) -> list[Json]:
    """The orders that hold all of this; an item that two orders hold counts for both."""
    return [order for order in orders if all(any(_fits(item, words) for item in order["items"]) for words in contents)]


def find_items(wish: Open) -> list[Json]:
    """The items of its order that a wish is about.

    Raises:
        Lost: A name fits none of them, or two.
    """
    items: list[Json] = wish.order["items"]
    if wish.topic.startswith("return_all"):
        return items
    found = []
    for words in wish.items:
        fitting = [item for item in items if _fits(item, words)]
        if len(fitting) != 1:
            raise Lost(f"'{words}' fits {len(fitting)} items of order {wish.order['order_id']}")
        found += fitting
    if wish.kept:
        left = [item for item in found if not _fits(item, wish.kept)]
        if len(left) != len(found) - 1:
            raise Lost(f"'{wish.kept}' fits {len(found) - len(left)} of what is returned")
        return left
    return found


def choose(product: Json, item: Json | None, words: str, *, sold_out: bool = False) -> Json:
    """The variant of a product that is wanted.

    Args:
        product: as the tool shows it.
        item: what it takes the place of, where only differences were said.
        words: options in words.
        sold_out: whether one that is sold out is as good an answer.

    Raises:
        Lost: No variant fits, or several do.
    """
    wanted = [
        variant
        for variant in product["variants"].values()
        if listed(_said(variant["options"], item["options"] if item else {})).lower() == words.lower()
    ]
    available = [variant for variant in wanted if variant["available"]]
    found = wanted if sold_out or not available else available
    if len(found) != 1:
        raise Lost(f"'{words}' fits {len(found)} variants of {product['name']}")
    return found[0]


def _said(options: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if known.get(name) != value}


def method_of(words: str, user: Json, original: str) -> Json:
    """The payment method that is meant.

    Raises:
        Lost: None or several can be called so.
    """
    heard = read_phrase("payment", words)
    methods = list(user["payment_methods"].values())
    match heard:
        case Heard("original", _):
            found = [method for method in methods if method["id"] == original]
        case Heard("paypal" | "gift_card" | "credit_card" as source, _):
            found = [method for method in methods if method["source"] == source]
        case Heard("numbered", slots):
            found = [method for method in methods if method.get("last_four") == slots["four"]]
        case Heard("id", slots):
            found = [method for method in methods if method["id"] == slots["id"]]
        case _:
            found = []
    if len(found) != 1:
        raise Lost(f"'{words}' fits {len(found)} payment methods")
    return found[0]
