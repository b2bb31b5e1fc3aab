"""What the policy sees of a tool's answer: tau2's JSON, or a short rendering for tiny policies.

    observe(result, "compact")      # '#W49 delivered: mug 1020; type mug p10; paid paypal_13'

The compact form keeps every identifier a policy needs to act and puts each value right after the word it is looked up
by; prices, addresses, options of ordered items and later payments are left out. Large models see tau2's JSON
unchanged.
"""

from __future__ import annotations

from typing import Literal

from sentinel.env.overlay import ToolResult
from sentinel.env.retail import Order, Product, User
from sentinel.env.synthetic import option_text

Observation = Literal["json", "compact"]


def observe(result: ToolResult, style: Observation) -> str:
    """The text of a tool message."""
    if style == "json" or result.error:
        return result.text
    match result.value:
        case Order():
            return _order(result.value)
        case User():
            return _user(result.value)
        case Product():
            return _product(result.value)
        case _:
            return result.text


def _order(order: Order) -> str:
    items = ", ".join(f"{item.name} {item.item_id}" for item in order.items)
    kinds = ", ".join(f"{item.name} {item.product_id}" for item in order.items)
    return f"{order.order_id} {order.status}: {items}; type {kinds}; paid {order.payment_history[0].payment_method_id}"


def _user(user: User) -> str:
    methods = ", ".join(
        f"{method.id} ${method.balance:.0f}" if method.source == "gift_card" else method.id
        for method in user.payment_methods.values()
    )
    return f"{user.user_id}: orders {', '.join(user.orders)}; payments {methods}"


def _product(product: Product) -> str:
    variants = ", ".join(
        f"{option_text(variant.options)} {variant.item_id} {'in stock' if variant.available else 'sold out'}"
        for variant in product.variants.values()
    )
    return f"{product.name} {product.product_id}: {variants}"
