"""Words last: a user's request, worded from an executed gold trajectory.

The opening holds what the user volunteers; what the condition withholds becomes a fact that is told when asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from sentinel.env.retail import OrderItem, User, Variant
from sentinel.env.synthetic import address_text, option_text
from sentinel.env.vocabulary import user_says
from sentinel.proposer.conditions import Condition
from sentinel.records import Intent, Scenario


@dataclass(frozen=True)
class Request:
    """One thing the user wants, grounded in the world."""

    kind: str
    order: str = ""
    items: tuple[OrderItem, ...] = ()
    choices: tuple[Variant, ...] = ()
    """New variants, in the order of `items`."""
    method: str = ""
    """The payment method that is charged or refunded."""
    address: str = ""
    """First line of a new address."""
    reason: str = ""
    """Of a cancellation."""


def scenario(condition: Condition, user: User, requests: list[Request], *, by_email: bool) -> Scenario:
    """The scenario of a task: for the scripted user as intents, for an LLM user in tau2's four fields."""
    if by_email:
        identity = user_says("identity_email", email=user.email)
    else:
        identity = user_says(
            "identity_name", first=user.name.first_name, last=user.name.last_name, zip=user.address.zip
        )
    intents = tuple(_intent(condition, request) for request in requests)
    facts = [fact for intent in intents for fact in intent.facts.values()]
    return Scenario(
        reason_for_call=f" {user_says('also')} ".join(intent.request for intent in intents),
        known_info=" ".join([identity, *facts]),
        instructions="" if not condition.declined else "When asked to confirm, say no: you changed your mind.",
        identity=identity,
        identity_volunteered=condition.withheld != "identity",
        intents=intents,
    )


def _intent(condition: Condition, request: Request) -> Intent:
    withheld = condition.withheld
    phrase = "order_withheld" if withheld == "order" else "order_known"
    opening = [_wish(request, user_says(phrase, order=request.order))]
    facts = {"order": user_says("order_answer", order=request.order)} if request.order else {}
    if request.kind == "cancel":
        facts["reason"] = user_says(_REASONS[request.reason])
        opening += [] if withheld == "reason" else [facts["reason"]]
    if request.kind in ("return", "items", "exchange"):
        facts["payment"] = _payment(condition, request)
        opening += [] if withheld == "payment" else [facts["payment"]]
    return Intent(request=" ".join(opening), facts=facts, confirms=not condition.declined)


_REASONS = {
    "no longer needed": "because_no_longer_needed",
    "ordered by mistake": "because_ordered_by_mistake",
    "": "because_bad",
}


def _payment(condition: Condition, request: Request) -> str:
    if request.kind != "return":
        return user_says("settle_original")
    named = condition.method == "named" or condition.obstacle == "method" or condition.withheld == "payment"
    return user_says("refund_named", payment=request.method) if named else user_says("refund_original")


def _wish(request: Request, order: str) -> str:
    """The sentence that says what is wanted."""
    names = [item.name for item in request.items]
    choices = [option_text(choice.options) for choice in request.choices]
    address = address_text(request.address) if request.address else ""
    match request.kind, len(names):
        case "return", 2:
            return user_says("return_two", item=names[0], second=names[1], order=order)
        case "return", _:
            return user_says("return_one", item=names[0], order=order)
        case "exchange", 2:
            facts = {"item": names[0], "second": names[1], "choice": choices[0], "second_choice": choices[1]}
            return user_says("exchange_two", order=order, **facts)
        case "exchange", _:
            return user_says("exchange_one", item=names[0], choice=choices[0], order=order)
        case "items", _:
            return user_says("items", item=names[0], choice=choices[0], order=order)
        case kind, _:
            return user_says(kind, order=order, address=address, payment=request.method)
