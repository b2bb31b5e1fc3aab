"""The words of natural requests: for the scripted user as intents, for an LLM user in tau2's four fields.

Both come from the same draw: the user speaks in the first person, and the scenario tells the same in the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sentinel.env.retail import OrderItem
from sentinel.proposer.natural.grammar import Sentence, Words, grammar, join, second_person
from sentinel.proposer.natural.kinds import Kind
from sentinel.proposer.natural.wishes import (
    Address,
    Customer,
    Request,
    Wish,
    article,
    changes,
    lines,
    listed,
    short,
)
from sentinel.records import Intent, Scenario

GREETING_SHARE = 0.6
FULL_SHARE = 0.4
"""How often a new variant is named by all its options rather than by what changes."""


@dataclass
class _Told:
    """What is said about one request."""

    opening: list[Sentence] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    correction: Sentence | None = None
    follow_up: Sentence | None = None


class Identity(NamedTuple):
    """How the customer says who it is."""

    words: str
    by_email: bool
    volunteered: bool


class Wording:
    """Words for the requests of one customer."""

    def __init__(self, customer: Customer, words: Words) -> None:
        self._customer, self._words = customer, words
        self._given: list[Address] = []
        """New addresses that were said before."""

    def scenario(self, kind: Kind, requests: Sequence[Request], *, by_email: bool) -> Scenario:
        """The scenario of a task."""
        told = [self._request(request) for request in requests]
        identity = Identity(self._identity(by_email), by_email, kind.withheld != "identity")
        return Scenario(
            reason_for_call=" ".join(second_person(_joined(each.opening, told=True)) for each in told),
            known_info=self._known(identity, told),
            unknown_info=self._unknown(requests, identity),
            instructions=self._instructions(requests, told, identity),
            identity=identity.words,
            identity_volunteered=identity.volunteered,
            intents=(self._intent(told),),
        )

    def _identity(self, by_email: bool) -> str:
        user = self._customer.user
        if by_email:
            return self._words.pick("identity_email", email=user.email)
        name = {"first": user.name.first_name, "last": user.name.last_name}
        return self._words.pick("identity_name", zip=user.address.zip, **name)

    def _known(self, identity: Identity, told: Sequence[_Told]) -> str:
        facts = [second_person(fact) for each in told for fact in each.facts.values()]
        return " ".join([second_person(identity.words), *facts])

    def _unknown(self, requests: Sequence[Request], identity: Identity) -> str:
        gaps = ["your email address"] if not identity.by_email else []
        if described := sum(request.described for request in requests):
            named = any(request.first.order and not request.described for request in requests)
            gaps.append(f"the number{'s' * (described > 1)} of the {'other ' * named}order{'s' * (described > 1)}")
        return f"You do not remember {' or '.join(gaps)}." if gaps else ""

    def _instructions(self, requests: Sequence[Request], told: Sequence[_Told], identity: Identity) -> str:
        parts = [self._words.pick("manner")]
        if not identity.volunteered:
            parts.append("Do not say who you are until the agent asks for it.")
        for request, each in zip(requests, told, strict=True):
            if each.facts and request.withheld != "identity":
                parts.append(f"Tell only when you are asked: {second_person(' '.join(each.facts.values()))}")
            if each.correction:
                correction = second_person(each.correction.told)
                parts.append(f"When the agent asks you to confirm, you change your mind: {correction}")
            if request.obstacle != "none":
                parts.append("If the agent cannot do it, accept that, and do not agree to anything else in its place.")
            if each.follow_up:
                parts.append(f"Then go on: {second_person(each.follow_up.told)}")
        return " ".join(part for part in parts if part)

    def _intent(self, told: Sequence[_Told]) -> Intent:
        """All requests in one: they share a message, and at most one of them has a twist."""
        opening = [self._words.pick("greeting")] if self._words.chance(GREETING_SHARE) else []
        connectors = ["", *self._words.different("connector", len(told) - 1)]
        opening += [join(connectors[number], _joined(each.opening, told=False)) for number, each in enumerate(told)]
        return Intent(
            request=" ".join(opening),
            facts={name: fact for each in told for name, fact in each.facts.items()},
            correction=next((each.correction.spoken for each in told if each.correction), ""),
            if_refused=next((each.follow_up.spoken for each in told if each.follow_up), ""),
        )

    def _request(self, request: Request) -> _Told:
        told, wish = _Told(), request.first
        opening = self._opening(request)
        told.opening.append(opening)
        if wish.kind == "cancel" and request.obstacle not in ("partial", "customer"):
            self._reason(wish, request, told)
        if wish.kind in ("return", "exchange", "items"):
            self._payment(wish, request, told)
        if wish.question in ("refund", "difference"):
            told.opening.append(self._words.say(wish.question))
        if request.withheld == "order":
            order = self._words.phrase("order", "id", id=wish.order_id)
            told.facts["order"] = self._words.one(grammar()["fact"]["order"], order=order)
        if request.withheld == "choice":
            told.facts["choice"] = self._words.one(grammar()["fact"]["choice"], choice=self._choice(wish, 0))
        if request.correction != "none":
            told.correction = self._correction(request)
        if request.follow_up and request.correction == "none":
            told.follow_up = self._ask(request.follow_up, self._words.pick("resigned"))
        return told

    def _reason(self, wish: Wish, request: Request, told: _Told) -> None:
        sentence = self._words.say(f"reason_{wish.reason.replace(' ', '_')}")
        if request.withheld == "reason":
            told.facts["reason"] = sentence.spoken
        else:
            told.opening.append(sentence)

    def _payment(self, wish: Wish, request: Request, told: _Told) -> None:
        original = wish.order.payment_history[0].payment_method_id if wish.order else ""
        form, slots = ("original", {}) if wish.method == original else self._customer.method_words(wish.method)
        payment = self._words.phrase("payment", form, **slots)
        sentence = self._words.say("pay_refund" if wish.kind == "return" else "pay_difference", payment=payment)
        if request.withheld == "payment":
            told.facts["payment"] = sentence.told
        else:
            told.opening.append(sentence)

    def _correction(self, request: Request) -> Sentence:
        wish, first = request.corrected or request.first, request.first
        match request.correction:
            case "choice":
                slots = {"item": self._item(first.items[0], request), "choice": self._whole(wish)}
            case "drop":
                kept = next(item for item in first.items if item not in wish.items)
                slots = {"item": self._item(kept, request)}
            case "address":
                slots = {"address": lines(wish.address or {})}
            case _:
                slots = {"order": self._order(request)}
        told = self._words.one(grammar()["correction"][request.correction], **slots)
        sentence = Sentence(join(self._words.pick("hesitation"), told), told)
        if not request.follow_up:
            return sentence
        asked = self._ask(request.follow_up, self._words.pick("instead"))
        return Sentence(f"{sentence.spoken} {asked.spoken}", f"{sentence.told} {asked.told}")

    def _ask(self, wish: Wish, prefix: str) -> Sentence:
        told = self._words.say(wish.question, order=self._words.phrase("order", "id", id=wish.order_id)).told
        return Sentence(join(prefix, told), told)

    def _opening(self, request: Request) -> Sentence:
        wish = request.first
        key = {"address": "address_order", "payment": "payment_order", "ask": wish.question}.get(wish.kind, wish.kind)
        key = {"partial": "partial", "customer": "friend", "product": "exchange_product"}.get(request.obstacle, key)
        slots: dict[str, str] = {"order": self._order(request)} if wish.order else {}
        if wish.kind in ("return", "exchange", "items"):
            key = self._items_key(key, request)
        for name, item in zip(("item", "second"), wish.items, strict=False):
            slots[name] = self._item(item, request)
        if wish.choices and wish.kind != "ask" and not wish.product:
            slots["choice"] = (
                self._words.phrase("choice", "withheld") if request.withheld == "choice" else self._choice(wish, 0)
            )
        if len(wish.choices) > 1:
            slots["second_choice"] = self._choice(wish, 1)
        if wish.product:
            name = short(wish.product) if wish.kind == "ask" else article(short(wish.product))
            slots |= {"product": name, "changes": listed(wish.choices[0].options)}
        if wish.address:
            slots["address"] = self._address(wish)
        if wish.method and wish.kind == "payment":
            form, words = self._customer.method_words(wish.method)
            slots["payment"] = self._words.phrase("payment", form, **words)
        return self._words.say(key, **slots)

    def _items_key(self, key: str, request: Request) -> str:
        wish = request.first
        whole = wish.order is not None and len(wish.items) == len(wish.order.items) > 1
        if wish.kind == "return" and whole and not request.described and request.correction == "none":
            return "return_all"
        if len(wish.items) == 2:
            key += "_two"
        return key + ("_described" if request.described else "")

    def _order(self, request: Request) -> str:
        if request.withheld == "order":
            return self._words.phrase("order", "withheld")
        if request.described:
            pool = self._customer.everything
            order = request.first.order
            names = [self._customer.named(item, pool) for item in (order.items if order else ())]
            return self._words.phrase("order", "described", content=next(filter(None, names)))
        if request.obstacle == "customer":
            return f"order {request.first.order_id}"
        return self._words.phrase("order", "id", id=request.first.order_id)

    def _item(self, item: OrderItem, request: Request) -> str:
        order = request.first.order
        pool = self._customer.everything if request.described or order is None else order.items
        return self._customer.named(item, pool) or short(item.name)

    def _address(self, wish: Wish) -> str:
        address = wish.address or {}
        if wish.profile or address in self._given:
            return self._words.phrase("address", "profile" if wish.profile else "same")
        self._given.append(address)
        return self._words.phrase("address", "new", lines=lines(address))

    def _whole(self, wish: Wish) -> str:
        """A variant by all its options: what differs would be ambiguous once another one was named."""
        return self._words.phrase("choice", "full", changes=listed(wish.choices[0].options))

    def _choice(self, wish: Wish, place: int) -> str:
        item, variant = wish.items[place], wish.choices[place]
        if self._words.chance(FULL_SHARE):
            return self._words.phrase("choice", "full", changes=listed(variant.options))
        return self._words.phrase("choice", "difference", changes=listed(changes(item, variant)))


def _joined(sentences: Sequence[Sentence], *, told: bool) -> str:
    return " ".join(sentence.told if told else sentence.spoken for sentence in sentences)
