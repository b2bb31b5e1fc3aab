"""The retail policy as rules with names: which one a call breaks, told from the call and from the tool's answer.

    refused_by("Error: Non-pending order cannot be cancelled")      # Rule.status
    broken_by(call, customer="mei_1", owner="noah_2")               # Rule.one_customer: tau2 would execute it

tau2's tools check the state of an order and how it is paid; they do not check whose it is, whether an exchange changes
anything, or whether the conversation was already handed over. Authentication, consent and one call at a time are rules
about the conversation: whoever reads it checks them (`sentinel.controller.steps`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from sentinel.records import ToolCall


class Rule(StrEnum):
    """A rule of the policy that a write can break."""

    status = "status"
    """The order is not in the status that the action needs, or was changed before."""
    reason = "reason"
    """A cancellation needs one of two reasons."""
    method = "method"
    """A refund goes to the original method or a gift card; a payment is changed to one other method."""
    balance = "balance"
    """A gift card must cover the amount."""
    stock = "stock"
    """A replacement must be another variant of the same product, in stock."""
    same_item = "same_item"
    """A replacement must differ from what it replaces."""
    one_customer = "one_customer"
    """Only the records of the customer of this conversation."""
    after_transfer = "after_transfer"
    """Nothing may be done after the user was transferred to a human."""


_REFUSALS: Mapping[str, Rule] = MappingProxyType(
    {
        "order cannot be": Rule.status,
        "exactly one payment": Rule.status,
        "Invalid reason": Rule.reason,
        "should be the original payment method": Rule.method,
        "should be different from the current one": Rule.method,
        "Insufficient gift card balance": Rule.balance,
        "not found or available": Rule.stock,
        "should be different from the old item": Rule.same_item,
    }
)
_BAD_SIGNATURE = ("unexpected keyword argument", "required positional argument")


def refused_by(answer: str) -> Rule | None:
    """The rule that a tool gave as its reason to refuse; `None` where it says that something does not exist."""
    return next((rule for words, rule in _REFUSALS.items() if words in answer), None)


def unfit(answer: str) -> bool:
    """Whether a tool could not even be called with these arguments."""
    return any(words in answer for words in _BAD_SIGNATURE)


def broken_by(call: ToolCall, customer: str, owner: str, transferred: bool = False) -> Rule | None:
    """The rule that a write breaks though the tool would execute it.

    Args:
        call: the write.
        customer: user id of the authenticated customer; empty where nobody was.
        owner: user id to whom the record belongs; empty where not known.
        transferred: whether the conversation was handed over before.
    """
    if customer and owner and customer != owner:
        return Rule.one_customer
    items, new = call.arguments.get("item_ids"), call.arguments.get("new_item_ids")
    if isinstance(items, list) and isinstance(new, list) and any(a == b for a, b in zip(items, new, strict=False)):
        return Rule.same_item
    return Rule.after_transfer if transferred else None
