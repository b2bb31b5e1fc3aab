"""The two generators behind one face: plain tasks that a tiny policy can read, and tasks in natural language.

    maker = open_maker(environment, world)
    kinds = maker.matching({"withheld": "reason"}, ("cancel_pending_order",))
    task = maker.make(kinds[0], rng, task_id="01-p1-003", origin=origin)

Worlds with atomic ids have the plain tasks, whose few words are a tiny policy's whole language; tau2's world and
synthetic ones like it have the natural ones. All that comes after (targets, gates, probing) is the same for both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from sentinel.env.overlay import World
from sentinel.env.tau2 import benchmark_users
from sentinel.proposer.conditions import TOOL_OF, Condition, Knobs, conditions, matching
from sentinel.proposer.natural.kinds import Kind, natural_kinds
from sentinel.proposer.natural.task import Cast, NaturalTasks, shared_people, synthetic_people
from sentinel.proposer.trajectory import Scenes, generate, synthetic_scenes
from sentinel.records import Json, Origin, Task
from sentinel.spec.models import Environment


class Named(Protocol):
    """What the two kinds of conditions have in common."""

    @property
    def condition(self) -> str:
        """Its unique name."""
        ...

    @property
    def weight(self) -> float:
        """Its share in the natural mix."""
        ...


class Maker(Protocol):
    """A generator of tasks."""

    redraws: int
    """Tasks made, at most, for one candidate whose knobs are left to chance."""
    talking: bool
    """Whether the reference agent understands its tasks."""

    @property
    def kinds(self) -> Sequence[Named]:
        """All that it can make."""
        ...

    def matching(self, constraints: Knobs, tools: Collection[str] = ()) -> Sequence[Named]:
        """Kinds that can meet the constraints; what they leave to chance is looked at afterwards."""
        ...

    def make(self, kind: Any, rng: np.random.Generator, *, task_id: str, origin: Origin) -> Task | None:
        """A task of one of its kinds, or `None` where the world has nobody for it."""
        ...


class PlainTasks:
    """The conditions of `sentinel.proposer.conditions`, in a few fixed sentences."""

    redraws, talking = 12, False

    def __init__(self, scenes: Scenes) -> None:
        self._scenes = scenes

    @property
    def kinds(self) -> Sequence[Condition]:
        """All conditions."""
        return conditions()

    def matching(self, constraints: Knobs, tools: Collection[str] = ()) -> Sequence[Condition]:
        """Conditions whose knobs agree."""
        return matching(constraints, tools)

    def make(self, kind: Condition, rng: np.random.Generator, *, task_id: str, origin: Origin) -> Task | None:
        """A task of this condition."""
        return generate(kind, self._scenes, rng, task_id=task_id, origin=origin)


class NaturalMaker(NaturalTasks):
    """The kinds of `sentinel.proposer.natural`."""

    redraws, talking = 40, True

    def __init__(self, cast: Cast, orders: int | None = None, others: bool = True) -> None:
        """Kinds that the world has no room for are left out.

        Args:
            cast: draws people.
            orders: what a customer has at most.
            others: whether anybody else has orders.
        """
        super().__init__(cast)
        fitting = (kind for kind in natural_kinds() if orders is None or len(kind.requests) <= orders)
        self._kinds = tuple(kind for kind in fitting if others or kind.obstacle != "customer")
        self._found: dict[tuple[Json, ...], Sequence[Kind]] = {}

    @property
    def kinds(self) -> Sequence[Kind]:
        """All kinds that fit into the world."""
        return self._kinds

    def matching(self, constraints: Knobs, tools: Collection[str] = ()) -> Sequence[Kind]:
        """Kinds whose knobs agree; what may be any write becomes one of the tools that are wanted."""
        key = (tuple(sorted(constraints.items())), tuple(tools))
        if key not in self._found:
            self._found[key] = self._matching(constraints, tools)
        return self._found[key]

    def _matching(self, constraints: Knobs, tools: Collection[str]) -> Sequence[Kind]:
        exact = str(constraints.get("tools", ""))
        wanted = sorted({tool for tool in (*tools, *exact.split("+")) if tool in TOOL_OF.values()})
        requests = [name for name, tool in TOOL_OF.items() if tool in wanted]
        agreeing = [k for k in self._kinds if all(k.knobs().get(knob, v) == v for knob, v in constraints.items())]
        return [aimed for kind in agreeing if (aimed := _aimed(kind, requests, only=bool(exact)))]


def _aimed(kind: Kind, wanted: Sequence[str], *, only: bool) -> Kind | None:
    """The kind with all wanted requests among its own, or `None` where it has no room for them.

    With `only`, requests that are none of the wanted ones have no room either.
    """
    named = [request for request in kind.requests if request != "any"]
    missing = [request for request in wanted if request not in named]
    if len(missing) > len(kind.requests) - len(named):
        return None
    if only and any(request not in wanted and request in TOOL_OF for request in named):
        return None
    filled: list[str] = []
    spare = list(wanted) if only else []
    for request in kind.requests:
        if request == "any" and missing:
            filled.append(missing.pop(0))
        elif request == "any" and spare:
            filled.append(spare[len(filled) % len(spare)])
        else:
            filled.append(request)
    return kind.model_copy(update={"requests": tuple(filled)})


def open_maker(environment: Environment, world: World) -> Maker:
    """The generator for an experiment's world; in tau2's, only users that no benchmark task uses."""
    if environment.world.type == "tau2":
        return NaturalMaker(shared_people(world, benchmark_users()))
    settings = environment.world
    if settings.ids == "natural":
        others = (settings.orders - 1) % settings.users != 0
        return NaturalMaker(synthetic_people(world, settings), max(2, settings.orders - 1), others)
    return PlainTasks(synthetic_scenes(world, settings))


def ids_name_people(environment: Environment) -> bool:
    """Whether an id means the same person everywhere; in atomic worlds the same few ids recur in every task."""
    return environment.world.type == "tau2" or environment.world.ids == "natural"
