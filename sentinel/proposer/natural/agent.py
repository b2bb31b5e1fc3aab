"""The reference agent: it knows the policy and our language, and learns everything else in the dialogue.

    dialogue = Agent()                       # a generator of actions: send it what the user or the tool answers
    action = next(dialogue)                  # "How can I help you?" … ToolCall(find_user_id_by_email) …

It sees neither the gold answer nor the scenario. Where the words and the world leave two things that could be meant, it
raises `Lost`: the task is ambiguous. It is no model of a good agent in other words than ours; it shows that a task can
be solved by what user and tools reveal.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

from sentinel.env.vocabulary import agent_says
from sentinel.proposer.natural.grammar import Heard, read, read_phrase
from sentinel.proposer.natural.understood import Lost, Open, Profile, choose, find_items, matching_orders, method_of
from sentinel.proposer.natural.wishes import lines
from sentinel.records import Json, ToolCall

Action = str | ToolCall
"""A sentence to the user, or a call."""
Dialogue = Generator[Action, str, None]
"""Yields actions and is sent the answers: of a tool to a call, of the user to a sentence."""

OPENING = "Hi! How can I help you today?"
_WRITES = {
    "cancel": ("cancel_pending_order", "pending"),
    "address": ("modify_pending_order_address", "pending"),
    "payment": ("modify_pending_order_payment", "pending"),
    "items": ("modify_pending_order_items", "pending"),
    "return": ("return_delivered_order_items", "delivered"),
    "exchange": ("exchange_delivered_order_items", "delivered"),
}
TRANSFER_SUMMARY = "The customer asks for something that is outside of what I can do."


class Agent:
    """One agent in one conversation."""

    def __init__(self) -> None:
        self._identity: dict[str, str] = {}
        self._wishes: list[Open] = []
        self._answers: list[str] = []
        self._profile: Profile | None = None
        self._corrected = False

    def talk(self, opening: str) -> Dialogue:
        """The conversation after the user's first message.

        Raises:
            Lost: It does not know what is meant.
        """
        self._hear(opening)
        yield from self._authenticate()
        for wish in list(self._wishes):
            yield from self._serve(wish)
        refused = [wish for wish in self._wishes if wish.refused]
        if any(wish.kind == "transfer" for wish in self._wishes):
            yield ToolCall(name="transfer_to_human_agents", arguments={"summary": TRANSFER_SUMMARY})
            yield agent_says("transferred")
            return
        if refused:
            said = yield f"I am sorry, I cannot do that: {refused[0].refused}. {' '.join(self._taken())}".strip()
            self._hear(said)
            for wish in self._wishes[len(self._wishes) - len(read(said)) :]:
                yield from self._serve(wish)
        yield " ".join([*self._taken(), agent_says("done")])

    def _taken(self) -> list[str]:
        answers, self._answers = self._answers, []
        return answers

    def _hear(self, text: str) -> None:
        """Understand a message that opens wishes."""
        for heard in read(text):
            if heard.topic.startswith("identity"):
                self._identity = dict(heard.slots)
            elif heard.topic in _MODIFIERS:
                self._modify(heard)
            elif not heard.topic.startswith(("correction", "fact")):
                self._wishes.append(Open.of(heard))

    def _modify(self, heard: Heard) -> None:
        if not self._wishes:
            raise Lost(f"'{heard.topic}' of nothing")
        self._wishes[-1].modify(heard)

    def _authenticate(self) -> Dialogue:
        if not self._identity:
            self._hear((yield agent_says("ask_identity")))
        if "email" in self._identity:
            call = ToolCall(name="find_user_id_by_email", arguments={"email": self._identity["email"]})
        else:
            named = {"first_name": self._identity.get("first", ""), "last_name": self._identity.get("last", "")}
            named["zip"] = self._identity.get("zip", "")
            call = ToolCall(name="find_user_id_by_name_zip", arguments=named)
        user = yield call
        if user.startswith("Error"):
            raise Lost(f"nobody is found: {user}")
        self._profile = Profile(user)

    def _serve(self, wish: Open) -> Dialogue:
        """Do what is wanted, or note why not."""
        match wish.kind:
            case "transfer":
                return
            case "user_address":
                yield from self._carry_out(wish, "modify_user_address", {"user_id": self._known.user_id})
            case "price":
                yield from self._tell_price(wish)
            case _:
                yield from self._about_order(wish)

    @property
    def _known(self) -> Profile:
        if self._profile is None:
            raise Lost("nobody is authenticated")
        return self._profile

    def _about_order(self, wish: Open) -> Dialogue:
        if wish.order_words and (read_phrase("order", wish.order_words) or Heard("", {})).topic == "withheld":
            wish.take(read((yield agent_says("ask_order"))))
        yield from self._find_order(wish)
        order = wish.order
        if wish.kind in ("total", "tracking"):
            self._answer(wish, order)
            return
        name, status = _WRITES[wish.kind]
        if order["user_id"] != self._known.user_id:
            wish.refused = f"order {order['order_id']} is not yours"
        elif order["status"].split(" ")[0] != status:
            wish.refused = f"order {order['order_id']} is {order['status']}"
        elif wish.topic == "partial":
            wish.refused = "I can cancel the whole order only"
        elif wish.kind == "cancel":
            yield from self._cancel(wish, name)
        elif wish.kind == "address":
            yield from self._carry_out(wish, name, {"order_id": order["order_id"]})
        elif wish.kind == "payment":
            yield from self._pay(wish, name)
        else:
            yield from self._move_items(wish, name)

    def _find_order(self, wish: Open) -> Dialogue:
        """Read the order that is meant: by its number, or by what it holds among all of the customer's."""
        profile = self._known
        number = wish.order_number
        if number:
            if number not in profile.orders:
                text = yield ToolCall(name="get_order_details", arguments={"order_id": number})
                profile.orders[number] = _parsed(text)
            wish.order = profile.orders[number]
            return
        yield from self._read_profile()
        for order_id in profile.user["orders"]:
            if order_id not in profile.orders:
                text = yield ToolCall(name="get_order_details", arguments={"order_id": order_id})
                profile.orders[order_id] = _parsed(text)
        own = [profile.orders[order_id] for order_id in profile.user["orders"]]
        found = matching_orders(own, wish.contents)
        if len(found) != 1:
            raise Lost(f"{len(found)} orders hold {wish.contents}")
        wish.order = found[0]

    def _read_profile(self) -> Dialogue:
        if not self._known.user:
            text = yield ToolCall(name="get_user_details", arguments={"user_id": self._known.user_id})
            self._known.user = _parsed(text)

    def _answer(self, wish: Open, order: Json) -> None:
        if wish.kind == "total":
            self._answers.append(f"The total was ${order['payment_history'][0]['amount']:.2f}.")
            return
        numbers = [number for sent in order["fulfillments"] for number in sent["tracking_id"]]
        self._answers.append(f"The tracking number is {', '.join(numbers)}.")

    def _tell_price(self, wish: Open) -> Dialogue:
        products = _parsed((yield ToolCall(name="list_all_product_types")))
        named = {name.lower(): product for name, product in products.items()}
        if (product := named.get(wish.slots["product"].lower())) is None:
            raise Lost(f"there is no product {wish.slots['product']}")
        text = yield ToolCall(name="get_product_details", arguments={"product_id": product})
        variant = choose(_parsed(text), None, wish.slots["changes"], sold_out=True)
        self._answers.append(f"It costs ${variant['price']:.2f}.")

    def _cancel(self, wish: Open, name: str) -> Dialogue:
        if not wish.reason:
            wish.take(read((yield agent_says("ask_reason"))))
        if wish.reason == "other":
            wish.refused = "that reason is none that I may accept"
            return
        yield from self._carry_out(wish, name, {"order_id": wish.order["order_id"], "reason": wish.reason})

    def _pay(self, wish: Open, name: str) -> Dialogue:
        yield from self._read_profile()
        paid = wish.order["payment_history"][0]
        method = method_of(wish.slots["payment"], self._known.user, paid["payment_method_id"])
        if method["source"] == "gift_card" and method["balance"] < paid["amount"]:
            wish.refused = "the gift card does not cover the order"
            return
        yield from self._carry_out(wish, name, {"order_id": wish.order["order_id"], "payment_method_id": method["id"]})

    def _move_items(self, wish: Open, name: str) -> Dialogue:
        """Return, exchange, or change items."""
        if any(read_phrase("choice", words) is None for words in wish.choices) or wish.topic == "exchange_product":
            wish.refused = "an item can be exchanged only for another variant of the same product"
            return
        items = find_items(wish)
        new = []
        for place, item in enumerate(items if wish.kind != "return" else ()):
            words = yield from self._choice_words(wish, place)
            variant = yield from self._variant(item, words)
            if not variant["available"]:
                wish.refused = f"the {item['name']} in that variant is sold out"
                return
            new.append(variant)
        yield from self._settle(wish, name, items, new)

    def _choice_words(self, wish: Open, place: int) -> Generator[Action, str, str]:
        said = wish.choices[place]
        if (read_phrase("choice", said) or Heard("", {})).topic == "withheld":
            answers = read((yield "Which variant would you like?"))
            said = next((heard.slots["choice"] for heard in answers if heard.topic == "fact/choice"), "")
        return said

    def _variant(self, item: Json, words: str) -> Generator[Action, str, Json]:
        product = item["product_id"]
        if product not in self._known.products:
            text = yield ToolCall(name="get_product_details", arguments={"product_id": product})
            self._known.products[product] = _parsed(text)
        heard = read_phrase("choice", words)
        if heard is None:
            raise Lost(f"no variant is understood in '{words}'")
        return choose(
            self._known.products[product], item if heard.topic == "difference" else None, heard.slots["changes"]
        )

    def _settle(self, wish: Open, name: str, items: list[Json], new: list[Json]) -> Dialogue:
        """The payment, then the write."""
        if not wish.payment:
            wish.take(read((yield agent_says("ask_payment"))))
        yield from self._read_profile()
        original = wish.order["payment_history"][0]["payment_method_id"]
        method = method_of(wish.payment, self._known.user, original)
        if wish.kind == "return" and method["id"] != original and method["source"] != "gift_card":
            wish.refused = "a refund goes to the original payment method or a gift card"
            return
        arguments: dict[str, Json] = {"order_id": wish.order["order_id"], "item_ids": [i["item_id"] for i in items]}
        if wish.kind != "return":
            arguments["new_item_ids"] = [variant["item_id"] for variant in new]
        yield from self._carry_out(wish, name, {**arguments, "payment_method_id": method["id"]})

    def _carry_out(self, wish: Open, name: str, arguments: dict[str, Json]) -> Dialogue:
        """Confirm, take corrections, write, and note what was asked besides."""
        arguments |= (yield from self._destination(wish)) if "address" in wish.slots else {}
        reply = yield f"To be sure: {name.replace('_', ' ')} with {_spoken(arguments)}. {agent_says('confirm')}"
        heard = read(reply)
        for correction in (each for each in heard if each.topic.startswith("correction")):
            target = self._meant(correction, wish)
            if target is wish and correction.topic == "correction/declined":
                self._hear(reply)
                for other in self._wishes[self._wishes.index(wish) + 1 :]:
                    yield from self._serve(other)
                return
            target.correct(correction)
            if target is wish:
                changed = yield from self._again(wish, arguments)
                yield f"So it is {_spoken(changed)}. {agent_says('confirm')}"
                arguments = changed
        yield from self._write(wish, name, arguments)

    def _meant(self, correction: Heard, wish: Open) -> Open:
        """The wish that a correction is about: this one, or one that comes later."""
        kinds = {"choice": ("exchange", "items"), "drop": ("return",), "address": ("address", "user_address")}
        wanted = kinds.get(correction.topic.partition("/")[2], ("cancel",))
        later = self._wishes[self._wishes.index(wish) :]
        found = [each for each in later if each.kind in wanted]
        if not found:
            raise Lost(f"nothing that {correction.topic} could be about")
        return found[0]

    def _again(self, wish: Open, arguments: dict[str, Json]) -> Generator[Action, str, dict[str, Json]]:
        """The arguments of a wish that was corrected."""
        if "address" in wish.slots:
            return arguments | (yield from self._destination(wish))
        items = find_items(wish)
        changed = {**arguments, "item_ids": [item["item_id"] for item in items]}
        if wish.kind != "return":
            variant = yield from self._variant(items[0], wish.choices[0])
            changed["new_item_ids"] = [variant["item_id"]]
        return changed

    def _destination(self, wish: Open) -> Generator[Action, str, dict[str, Json]]:
        said = wish.slots["address"]
        topic = (read_phrase("address", said) or Heard("", {})).topic
        if topic == "same":
            said = self._given_before(wish)
        if topic == "profile" and "," not in said:
            yield from self._read_profile()
            return dict(self._known.user["address"])
        first, *middle, city, place, country = said.split(", ")
        state, _, code = place.rpartition(" ")
        second = middle[0] if middle else ""
        return {"address1": first, "address2": second, "city": city, "state": state, "zip": code, "country": country}

    def _given_before(self, wish: Open) -> str:
        """The address that an earlier wish has named."""
        earlier = [
            each.slots["address"] for each in self._wishes[: self._wishes.index(wish)] if "address" in each.slots
        ]
        given = list(dict.fromkeys(address for address in earlier if "," in address))
        if len(given) != 1:
            raise Lost(f"'{wish.slots['address']}': {len(given)} addresses were named before")
        return given[0]

    def _write(self, wish: Open, name: str, arguments: dict[str, Json]) -> Dialogue:
        answer = yield ToolCall(name=name, arguments=arguments)
        if answer.startswith("Error"):
            raise Lost(f"{name}: {answer}")
        before = wish.order
        after = _parsed(answer)
        if wish.order:
            self._known.orders[wish.order["order_id"]] = after
        if wish.question == "refund":
            chosen = [item["price"] for item in before["items"] if item["item_id"] in arguments["item_ids"]]
            self._answers.append(f"You get back ${sum(chosen):.2f}.")
        if wish.question == "difference":
            old = [item["price"] for item in before["items"] if item["item_id"] in arguments["item_ids"]]
            new = list(self._prices(arguments["new_item_ids"]))
            self._answers.append(f"The price difference is ${abs(sum(new) - sum(old)):.2f}.")

    def _prices(self, items: list[str]) -> Iterator[float]:
        variants = {key: v for p in self._known.products.values() for key, v in p["variants"].items()}
        yield from (variants[item]["price"] for item in items)


_MODIFIERS = frozenset(
    {
        *("reason_no_longer_needed", "reason_ordered_by_mistake", "reason_other"),
        *("pay_refund", "pay_difference", "refund", "difference"),
    }
)
"""Sentences that say more about the last wish."""


def _parsed(text: str) -> Any:
    if text.startswith("Error"):
        raise Lost(text)
    return json.loads(text)


def _spoken(arguments: dict[str, Json]) -> str:
    if "address1" in arguments:
        return lines({name: str(value) for name, value in arguments.items()})
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in arguments.items())
