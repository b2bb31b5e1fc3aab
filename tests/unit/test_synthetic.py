"""Synthetic worlds: they fit tau2's models, repeat with their seed, share nobody with the benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from sentinel.env.overlay import World
from sentinel.env.retail import RetailDB
from sentinel.env.synthetic import POOLS, Records, atoms, generate, option_text, street_lines
from sentinel.errors import StageError
from sentinel.records import Json
from sentinel.seeds import generator
from sentinel.spec.models import SyntheticWorld

WORLDS = 60


def settings(**changes: Any) -> SyntheticWorld:
    return SyntheticWorld.model_validate({"type": "synthetic", "ids": "atomic", **changes})


@cache
def worlds(ids: str) -> list[Records]:
    return [generate(settings(ids=ids, users=3, orders=6), generator("worlds", ids, n)) for n in range(WORLDS)]


@pytest.mark.parametrize("ids", ["atomic", "natural"])
def test_records_fit_tau2s_models_and_one_another(ids: str) -> None:
    for records in worlds(ids):
        db = RetailDB.model_validate(records)
        assert {order for user in db.users.values() for order in user.orders} == set(db.orders)
        for order in db.orders.values():
            owner = db.users[order.user_id]
            assert order.order_id in owner.orders
            assert order.payment_history[0].payment_method_id in owner.payment_methods
            assert order.payment_history[0].amount == round(sum(item.price for item in order.items), 2)
            for item in order.items:
                variant = db.products[item.product_id].variants[item.item_id]
                assert (variant.options, variant.price) == (item.options, item.price)
        for product in db.products.values():
            assert sum(variant.available for variant in product.variants.values()) >= 2
            assert len({option_text(variant.options) for variant in product.variants.values()}) == 3


def test_a_world_has_the_size_that_was_asked_for() -> None:
    records = generate(settings(users=4, products=5, variants=2, orders=7), generator(0))
    assert {kind: len(entries) for kind, entries in records.items()} == {"users": 4, "orders": 7, "products": 5}
    assert {len(product["variants"]) for product in records["products"].values()} == {2}
    first = next(iter(records["users"].values()))
    assert len(first["orders"]) >= 6


@pytest.mark.parametrize("ids", ["atomic", "natural"])
def test_a_world_is_a_function_of_its_seed(ids: str) -> None:
    one, again, other = (generate(settings(ids=ids), generator("seed", n)) for n in (1, 1, 2))
    assert one == again
    assert one != other


def ids_of(records: Json) -> Iterator[str]:
    for kind, entries in records.items():
        yield from entries
        if kind == "users":
            yield from (method for user in entries.values() for method in user["payment_methods"])
        if kind == "products":
            yield from (item for product in entries.values() for item in product["variants"])


def people_of(records: Json) -> set[str]:
    return {user["email"].lower() for user in records["users"].values()} | {
        " ".join((*user["name"].values(), user["address"]["zip"])).lower() for user in records["users"].values()
    }


@pytest.mark.parametrize("ids", ["atomic", "natural"])
def test_nobody_and_nothing_is_in_tau2s_database(ids: str) -> None:
    benchmark = World.tau2().db.model_dump(mode="json")
    known = set(ids_of(benchmark))
    for records in worlds(ids):
        assert known.isdisjoint(ids_of(records))
        assert people_of(benchmark).isdisjoint(people_of(records))


def test_natural_ids_cannot_meet_tau2s() -> None:
    """Not by luck: every number of ours begins with a 0 and none of tau2's does; user ids have another shape."""
    ours = {number(name) for records in worlds("natural") for name in ids_of(records) if not name.startswith("user_")}
    assert {each[0] for each in ours} == {"0"}
    tau2 = {number(name) for name in ids_of(World.tau2().db.model_dump()) if name not in World.tau2().db.users}
    assert "0" not in {each[0] for each in tau2}
    assert not any(user.startswith("user_") for user in World.tau2().db.users)


def number(identifier: str) -> str:
    return identifier.rpartition("_")[2].removeprefix("#W")


def values_of(records: Records) -> Iterator[str]:
    """What a policy must be able to copy from an atomic world, or look up in it."""
    yield from ids_of(records)
    for user in records["users"].values():
        yield from (user["email"], *user["name"].values(), user["address"]["zip"], user["address"]["address1"])
    for product in records["products"].values():
        yield f"{product['name']} "
        yield from (f"{option_text(variant['options'])} " for variant in product["variants"].values())


def test_atoms_cover_every_value_of_every_atomic_world() -> None:
    alphabet = list(atoms())
    assert len(set(alphabet)) >= len(alphabet) - 1, "'Birch' is a name and a street"
    for records in worlds("atomic"):
        assert set(alphabet).issuperset(values_of(records))
    assert set(alphabet).issuperset([*street_lines(), "no longer needed", "ordered by mistake"])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"products": 17}, "17 products"),
        ({"users": 9}, "9 credit_card ids"),
        ({"users": 31, "ids": "natural"}, "31 users"),
        ({"orders": POOLS["order"] + 1}, "61 order ids"),
        ({"products": 15}, "45 item ids"),
    ],
)
def test_a_world_that_the_vocabulary_cannot_fill_is_named(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(StageError, match=f"environment.world: {what} are wanted"):
        generate(settings(**changes), generator(0))


@pytest.mark.parametrize("ids", ["atomic", "natural"])
def test_the_smallest_world_is_a_world(ids: str) -> None:
    smallest = settings(ids=ids, users=1, products=1, variants=2, orders=1)
    for number in range(20):
        records = generate(smallest, generator("smallest", number))
        assert [len(order["items"]) for order in records["orders"].values()] == [1]
        assert World.from_data(records).db.users
