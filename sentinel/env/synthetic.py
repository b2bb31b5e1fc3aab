"""Synthetic retail worlds for tau2's own tools: users, orders and products that no benchmark knows.

    records = generate(settings, generator(seed, "world", n))     # {"users": …, "orders": …, "products": …}

A world is small and made for one task, so nothing in it can be memorised; held-out tasks come from other seeds. With
`ids: atomic` identifiers come from small pools (a tiny policy's tokenizer has one token for each), with `natural` they
look like tau2's, except that every number begins with a 0, as none of tau2's does; there prices have cents and parcels
tracking numbers. Left out, on purpose: stock levels and anything that no tool of tau2 reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product as pairs
from typing import Any, TypeVar

import numpy as np

from sentinel.env.vocabulary import vocabulary
from sentinel.errors import StageError
from sentinel.spec.models import SyntheticWorld

T = TypeVar("T")
Records = dict[str, dict[str, Any]]
STATUSES = ("pending", "delivered", "processed", "cancelled")
STATUS_SHARES = (0.42, 0.42, 0.08, 0.08)
_UP_TO = np.cumsum(STATUS_SHARES) / np.sum(STATUS_SHARES)
SENT = ("delivered", "processed")
"""Statuses in which there is a tracking number."""
POOLS = {"order": 60, "item": 44, "product": 16, "user": 30, "payment": 8}
"""Sizes of the atomic pools: small enough to learn to copy in a minute, large enough that guessing fails."""
PAYMENT_KINDS = ("credit_card", "gift_card", "paypal")
POOR, RICH = (1.0, 2.0), (500.0, 600.0)
"""Gift card balances: the poor ones cover nothing in the shop, the rich ones everything."""


def _atomic(kind: str, number: int) -> str:
    number += 10
    shapes = {"order": f"#W{number}", "item": f"10{number}", "product": f"p{number}", "user": f"user_{number}"}
    return shapes.get(kind, f"{kind}_{number}")


def _natural(kind: str, number: int) -> str:
    match kind:
        case "item" | "product":
            return f"0{number:09d}"
        case "order":
            return f"#W0{number % 10**6:06d}"
        case "user":
            return f"user_{number % 10**4:04d}"
        case _:
            return f"{kind}_0{number % 10**6:06d}"


def _different(pool: int, count: int, what: str, rng: np.random.Generator) -> list[int]:
    """`count` different numbers below `pool`."""
    if count > pool:
        raise StageError(f"environment.world: {count} {what} are wanted, and there are only {pool} different ones")
    numbers: list[int] = rng.choice(pool, size=count, replace=False).tolist()
    return numbers


def _identifiers(kind: str, count: int, settings: SyntheticWorld, rng: np.random.Generator) -> list[str]:
    """`count` different identifiers of one kind."""
    if settings.ids == "atomic":
        pool = POOLS.get(kind, POOLS["payment"])
        return [_atomic(kind, number) for number in _different(pool, count, f"{kind} ids", rng)]
    found: dict[str, None] = {}
    while len(found) < count:
        found |= {_natural(kind, number): None for number in rng.integers(10**9, size=count - len(found)).tolist()}
    return list(found)


def option_text(options: dict[str, str]) -> str:
    """How people name a variant: its option values joined by a slash."""
    return "/".join(options.values())


def street_address(line: str, zip_code: str | None = None) -> dict[str, str]:
    """A postal address; all are in one town, so the first line tells them apart."""
    home: dict[str, str] = dict(vocabulary()["home"])
    return {"address1": line, **home, **({"zip": zip_code} if zip_code else {})}


def address_text(line: str) -> str:
    """How people write an address."""
    return ", ".join(part for part in street_address(line).values() if part)


@cache
def street_lines() -> tuple[str, ...]:
    """All first lines of an address, as '12 Oak Street'."""
    words = vocabulary()
    return tuple(
        f"{10 + n} {street} {kind}" for n, (street, kind) in enumerate(pairs(words["streets"], words["street_kinds"]))
    )


def _options() -> list[dict[str, str]]:
    words = vocabulary()
    return [{"color": color, "size": size} for color, size in pairs(words["colors"], words["sizes"])]


def _pick(values: Sequence[T], rng: np.random.Generator) -> T:
    """The value that `rng.choice` draws, which makes an array of all of them first."""
    return values[int(rng.integers(len(values)))]


def _products(settings: SyntheticWorld, rng: np.random.Generator) -> dict[str, Any]:
    words = vocabulary()["products"]
    names = [words[n] for n in _different(len(words), settings.products, "products", rng)]
    product_ids = _identifiers("product", settings.products, settings, rng)
    item_ids = iter(_identifiers("item", settings.products * settings.variants, settings, rng))
    products, every = {}, _options()
    for name, product_id in zip(names, product_ids, strict=True):
        options = [dict(every[i]) for i in rng.choice(len(every), size=settings.variants, replace=False)]
        stock = [True, True] + [bool(rng.random() < 0.7) for _ in options[2:]]
        variants = {
            (item := next(item_ids)): {
                "item_id": item,
                "options": option,
                "available": available,
                "price": price,
            }
            for option, available, price in zip(options, stock, _prices(settings, len(stock), rng), strict=True)
        }
        products[product_id] = {"name": name, "product_id": product_id, "variants": variants}
    return products


def _prices(settings: SyntheticWorld, count: int, rng: np.random.Generator) -> list[float]:
    """Whole dollars where a tiny policy reads them, cents where amounts are communicated."""
    if settings.ids == "atomic":
        return [float(price) for price in rng.integers(10, 60, size=count).tolist()]
    return [price / 100 for price in rng.integers(1000, 30000, size=count).tolist()]


def _payment(kind: str, identifier: str, rng: np.random.Generator) -> dict[str, Any]:
    if kind == "credit_card":
        return {"source": kind, "id": identifier, "brand": "visa", "last_four": f"{int(rng.integers(10**4)):04d}"}
    if kind == "gift_card":
        return {"source": kind, "id": identifier, "balance": _pick(POOR if rng.random() < 0.35 else RICH, rng)}
    return {"source": kind, "id": identifier}


def _users(settings: SyntheticWorld, rng: np.random.Generator) -> dict[str, Any]:
    words = vocabulary()
    user_ids = _identifiers("user", settings.users, settings, rng)
    numbers = _different(POOLS["user"], settings.users, "users", rng)
    names = _different(len(words["first_names"]) * len(words["last_names"]), settings.users, "names", rng)
    cards = {kind: iter(_identifiers(kind, settings.users, settings, rng)) for kind in PAYMENT_KINDS}
    users = {}
    for user_id, number, name in zip(user_ids, numbers, names, strict=True):
        first, last = words["first_names"][name // 10], words["last_names"][name % 10]
        kinds = [str(kind) for kind in rng.choice(PAYMENT_KINDS, size=int(rng.integers(2, 4)), replace=False)]
        payments = {(card := next(cards[kind])): _payment(kind, card, rng) for kind in kinds}
        users[user_id] = {
            "user_id": user_id,
            "name": {"first_name": first, "last_name": last},
            "address": street_address(_pick(street_lines(), rng), f"620{10 + number}"),
            "email": f"{user_id}@shop.example" if settings.ids == "natural" else f"u{10 + number}@shop.example",
            "payment_methods": payments,
            "orders": [],
        }
    return users


def _order(
    order_id: str, user: dict[str, Any], products: dict[str, Any], settings: SyntheticWorld, rng: np.random.Generator
) -> dict[str, Any]:
    count = 1 if rng.random() < 0.55 else min(2, len(products))
    kinds = rng.choice(len(products), size=count, replace=False)
    items = []
    for product_id in (list(products)[n] for n in kinds):
        variant = _pick(list(products[product_id]["variants"].values()), rng)
        items.append(
            {
                "name": products[product_id]["name"],
                "product_id": product_id,
                **{k: variant[k] for k in ("item_id", "price", "options")},
            }
        )
    affordable = [p for p, method in user["payment_methods"].items() if method.get("balance", RICH[0]) >= RICH[0]]
    method = _pick(affordable or list(user["payment_methods"]), rng)
    payment = {
        "transaction_type": "payment",
        "amount": round(sum(item["price"] for item in items), 2),
        "payment_method_id": method,
    }
    status = STATUSES[int(_UP_TO.searchsorted(rng.random(), side="right"))]
    return {
        "order_id": order_id,
        "user_id": user["user_id"],
        "address": user["address"],
        "items": items,
        "status": status,
        "fulfillments": _sent(items, rng) if settings.ids == "natural" and status in SENT else [],
        "payment_history": [payment],
    }


def _sent(items: list[dict[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    """One parcel with all items."""
    return [{"tracking_id": [f"0{int(rng.integers(10**11)):011d}"], "item_ids": [item["item_id"] for item in items]}]


def generate(settings: SyntheticWorld, rng: np.random.Generator) -> Records:
    """A world of `settings.users` users; the first user has most of the orders."""
    products, users = _products(settings, rng), _users(settings, rng)
    orders = {}
    owners = list(users)
    for n, order_id in enumerate(_identifiers("order", settings.orders, settings, rng)):
        owner = users[owners[0] if n < max(2, settings.orders - 1) else owners[n % len(owners)]]
        orders[order_id] = _order(order_id, owner, products, settings, rng)
        owner["orders"].append(order_id)
    return {"users": users, "orders": orders, "products": products}


def atoms() -> Iterator[str]:
    """Every identifier and word that a value of an atomic world can be: the alphabet of a tiny policy.

    Words by which a value is looked up hold the space that follows them, so that the value comes right after its word.
    """
    words = vocabulary()
    for kind in ("order", "item", "product", "user", *PAYMENT_KINDS):
        yield from (_atomic(kind, number) for number in range(POOLS.get(kind, POOLS["payment"])))
    for number in range(POOLS["user"]):
        yield from (f"u{10 + number}@shop.example", f"620{10 + number}")
    yield from (f"{key} " for key in (*words["products"], *map(option_text, _options())))
    yield from (*words["first_names"], *words["last_names"], *street_lines())
    yield from ("no longer needed", "ordered by mistake")
