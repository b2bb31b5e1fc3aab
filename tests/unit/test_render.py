"""Observations: tau2's JSON untouched, and a compact form that keeps every identifier, each after its word."""

from __future__ import annotations

import json

import pytest

from sentinel.env.overlay import Session, ToolResult, World
from sentinel.env.render import observe
from sentinel.env.retail import GiftCard
from sentinel.env.synthetic import atoms, option_text
from sentinel.records import Json, ToolCall
from tests.unit.builders import made, world


@pytest.fixture(params=["atomic", "natural", "tau2"])
def session(request: pytest.FixtureRequest) -> Session:
    if request.param == "tau2":
        return World.tau2().open()
    return world().open(made("two/return_cancel", ids=request.param).records)


def look(session: Session, name: str, **arguments: Json) -> ToolResult:
    result = session.call(ToolCall(name=name, arguments=arguments))
    assert not result.error, result.text
    return result


def test_json_is_tau2s_own(session: Session) -> None:
    order = look(session, "get_order_details", order_id=next(iter(session.db.orders)))
    assert observe(order, "json") == order.text
    assert json.loads(order.text)["order_id"] == next(iter(session.db.orders))


def test_an_order_keeps_its_ids_and_its_status(session: Session) -> None:
    for order in session.db.orders.values():
        text = observe(look(session, "get_order_details", order_id=order.order_id), "compact")
        assert text.startswith(f"{order.order_id} {order.status}: ")
        assert text.endswith(f"paid {order.payment_history[0].payment_method_id}")
        for item in order.items:
            assert f"{item.name} {item.item_id}" in text
            assert f"{item.name} {item.product_id}" in text


def test_a_user_keeps_orders_and_payment_methods(session: Session) -> None:
    for user in session.db.users.values():
        text = observe(look(session, "get_user_details", user_id=user.user_id), "compact")
        assert text.startswith(f"{user.user_id}: ")
        assert all(order in text for order in user.orders)
        for method in user.payment_methods.values():
            shown = f"{method.id} ${method.balance:.0f}" if isinstance(method, GiftCard) else method.id
            assert shown in text


def test_a_product_keeps_its_variants_and_what_is_in_stock(session: Session) -> None:
    for product in session.db.products.values():
        text = observe(look(session, "get_product_details", product_id=product.product_id), "compact")
        assert text.startswith(f"{product.name} {product.product_id}: ")
        for variant in product.variants.values():
            stock = "in stock" if variant.available else "sold out"
            assert f"{option_text(variant.options)} {variant.item_id} {stock}" in text


def test_strings_and_errors_are_the_same_in_both_forms(session: Session) -> None:
    user = next(iter(session.db.users.values()))
    found = look(session, "find_user_id_by_email", email=user.email)
    missing = session.call(ToolCall(name="get_order_details", arguments={"order_id": "#W0"}))
    assert missing.error
    for result in (found, missing):
        assert observe(result, "compact") == observe(result, "json") == result.text


def test_every_value_of_an_atomic_order_follows_a_word_that_is_one_token() -> None:
    task = made("exchange/two_items")
    alphabet = set(atoms())
    for order in world().open(task.records).db.orders.values():
        for item in order.items:
            assert f"{item.name} " in alphabet
            assert {item.item_id, item.product_id} <= alphabet
