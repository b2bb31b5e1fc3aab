"""A natural task: a customer drawn from a world, requests grounded, the gold answer executed, and words last.

maker = NaturalTasks(shared_people(World.tau2(), benchmark_users()))
task = maker.make(kind, rng, task_id="01-explore-003", origin=Origin(kind="general"))     # None: nobody fits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sentinel.env.overlay import World
from sentinel.env.retail import RetailDB
from sentinel.env.synthetic import Records
from sentinel.env.synthetic import generate as generate_world
from sentinel.proposer.natural.calls import gold, temptations
from sentinel.proposer.natural.grammar import Words
from sentinel.proposer.natural.ground import Grounding
from sentinel.proposer.natural.kinds import Kind
from sentinel.proposer.natural.scenario import Wording
from sentinel.proposer.natural.wishes import Customer, Request
from sentinel.records import Origin, Task
from sentinel.spec.models import SyntheticWorld

ATTEMPTS = 120
"""Customers tried for one task before it is given up as unsatisfiable."""
EMAIL_SHARE = 0.25
"""tau2-base finds 14 customers by e-mail and 61 by name and zip code."""
TRANSFERRED = "TRANSFERRED TO A HUMAN AGENT"
"""What the policy has an agent say after a transfer."""


class People(NamedTuple):
    """A customer, others of the same world that may be spoken of, and the records that the task brings along."""

    world: World
    records: Records
    customer: Customer
    others: Sequence[Customer]


Cast = Callable[[np.random.Generator, int], People]
"""Draws people for a task; the customer has at least so many orders, where the world has such customers."""


def shared_people(world: World, banned: frozenset[str]) -> Cast:
    """Users of one database other than the banned ones (those of the benchmark)."""
    free = [user for user, record in sorted(world.db.users.items()) if record.orders and user not in banned]
    customers = [Customer.of(world.db, user) for user in free]
    by_orders: dict[int, list[Customer]] = {}

    def draw(rng: np.random.Generator, orders: int) -> People:
        if orders not in by_orders:
            by_orders[orders] = [each for each in customers if len(each.orders) >= orders] or customers
        fitting = by_orders[orders]
        customer = fitting[int(rng.integers(len(fitting)))]
        other = customers[int(rng.integers(len(customers)))]
        return People(world, {}, customer, () if other is customer else (other,))

    return draw


def synthetic_people(world: World, settings: SyntheticWorld) -> Cast:
    """A fresh synthetic world for every task; its first user is the customer."""

    def draw(rng: np.random.Generator, orders: int) -> People:
        records = generate_world(settings, rng)
        db = RetailDB.model_construct(**world.models(records))
        customer, *others = (Customer.of(db, user) for user in db.users)
        return People(world, records, customer, others)

    return draw


class NaturalTasks:
    """Makes tasks of any kind with the people of one world."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast

    def make(self, kind: Kind, rng: np.random.Generator, *, task_id: str, origin: Origin) -> Task | None:
        """A task of this kind, or `None` if it can happen to none of `ATTEMPTS` customers."""
        orders = sum(name != "user_address" for name in kind.requests) - (len(kind.requests) > 3)
        for _ in range(ATTEMPTS):
            people = self._cast(rng, orders)
            requests = Grounding(kind, people.customer, people.others, rng).requests()
            if requests:
                return _written(kind, people, requests, rng, task_id, origin)
        return None


def _written(
    kind: Kind, people: People, requests: list[Request], rng: np.random.Generator, task_id: str, origin: Origin
) -> Task:
    by_email = bool(rng.random() < EMAIL_SHARE)
    answers = [w.answer for r in requests for w in (r.final, r.follow_up) if w and w.answer]
    calls = tuple(gold(requests, people.customer, by_email))
    if kind.family == "transfer":
        answers.append(TRANSFERRED)
    drawn = {
        "identity": "email" if by_email else "name",
        "described": any(request.described for request in requests),
    }
    return Task(
        id=task_id,
        world=people.world.hash,
        records=people.records,
        origin=origin,
        scenario=Wording(people.customer, Words(rng)).scenario(kind, requests, by_email=by_email),
        gold=calls,
        communicate=tuple(answers),
        temptations=temptations(requests, people.customer),
        knobs=kind.knobs() | drawn,
    )
