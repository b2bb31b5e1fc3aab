"""`sentinel propose`: tasks for a weakness that somebody names, as a tool of its own.

    made = propose_for("exchange with a choice taken back", 20, "tau2", seed=7)
    made.document            # {"tasks": [...], "tally": {...}}; the tasks are tau2's, and tau2 can run them

The pattern is read by words that the generator knows: names of its kinds and tools, `knob=value`, and what people call
them (`ALIASES`); nothing else is guessed. Tasks pass the same gates as those of an experiment, except that no policy
probes them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Literal, NamedTuple

from sentinel.env.overlay import World
from sentinel.env.tau2 import as_tau2, benchmark_tasks
from sentinel.errors import SentinelError
from sentinel.proposer.conditions import TOOL_OF
from sentinel.proposer.gates import Bench
from sentinel.proposer.leakage import manifest
from sentinel.proposer.makers import open_maker
from sentinel.proposer.natural.kinds import natural_kinds
from sentinel.proposer.propose import Proposal, Target, generating, propose
from sentinel.records import Json, Task
from sentinel.spec.models import Environment, ScriptedUser, SyntheticWorld, Tau2World

SYNTHETIC = SyntheticWorld(type="synthetic", users=3, products=8, variants=5, orders=9)
"""A world with room for every kind of task."""
ALIASES: Mapping[str, tuple[str, str | bool]] = MappingProxyType(
    {
        "change of mind": ("declined", True),
        "taken back": ("correction", "choice"),
        "similar": ("skill", "similar"),
        "variants": ("skill", "similar"),
        "described": ("described", True),
        "order number": ("withheld", "order"),
        "several": ("family", "several"),
        "refusal": ("family", "refuse"),
        "forbidden": ("family", "refuse"),
        "sold out": ("obstacle", "stock"),
        "other customer": ("obstacle", "customer"),
        "refund method": ("skill", "refund_method"),
        "hand over": ("family", "transfer"),
        "question": ("family", "ask"),
    }
)
"""What people say, and the knob that it means."""
_DRAWN: Mapping[str, tuple[str | int | bool, ...]] = MappingProxyType(
    {"identity": ("email", "name"), "described": (False, True)}
)
"""Knobs that are drawn for each task, whatever its kind."""
_TRAITS = ("corrects", "items", "methods", "orders", "payment", "tools", "twins", "writes")
"""What is read off a task's records and gold answer (`sentinel.env.traits`)."""
_ASSIGNED = re.compile(r"(\w+)\s*=\s*([\w+./-]+)")


class Order(NamedTuple):
    """A pattern in terms of the generator."""

    constraints: dict[str, str | int | bool]
    tools: tuple[str, ...]

    def __str__(self) -> str:
        """As it can be written on the command line."""
        return ", ".join([*(f"{k}={str(v).lower()}" for k, v in self.constraints.items()), *self.tools])


def understand(pattern: str) -> Order:
    """What a pattern asks for.

    Raises:
        SentinelError: none of its words is known, or a knob or its value is not.
    """
    text = pattern.lower()
    knobs: dict[str, str | int | bool] = {name: _value(value) for name, value in _ASSIGNED.findall(text)}
    for name, value in knobs.items():
        _refuse_unknown(name, value)
    tools = tuple(tool for tool in TOOL_OF.values() if tool in text)
    rest = _ASSIGNED.sub(" ", text)
    named = [kind.condition for kind in natural_kinds() if kind.condition in rest]
    if named:
        knobs["condition"] = named[0]
    else:
        knobs |= {knob: value for words, (knob, value) in ALIASES.items() if words in rest}
        families = [family for family in dict.fromkeys(k.family for k in natural_kinds()) if _word(family, rest)]
        if families and "family" not in knobs and not tools:
            knobs["family"] = max(families, key=len)  # "user address" holds "address" too
    if not knobs and not tools:
        known = dict.fromkeys([*(kind.family for kind in natural_kinds()), *ALIASES, *TOOL_OF.values(), *_values()])
        raise SentinelError(
            f"--pattern: nothing is known of '{pattern}'; name one of: {', '.join(known)}; the last ones and traits "
            f"({', '.join(_TRAITS)}) as name=value"
        )
    return Order(knobs, tools)


@cache
def _values() -> Mapping[str, Sequence[str | int | bool]]:
    """Every knob of the kinds, with all that it can be."""
    found = {name: dict.fromkeys(values) for name, values in _DRAWN.items()}
    for kind in natural_kinds():
        for name, value in kind.knobs().items():
            found.setdefault(name, {})[value] = None
    return {name: list(values) for name, values in found.items()}


def _refuse_unknown(name: str, value: str | int | bool) -> None:
    if name in _TRAITS:
        return
    if name not in _values():
        names = [*_values(), *_TRAITS]
        raise SentinelError(f"--pattern: there is no knob '{name}'{_near(name, names)}; there are: {', '.join(names)}")
    if value not in _values()[name]:
        values = [str(each).lower() for each in _values()[name]]
        raise SentinelError(
            f"--pattern: {name} is never '{value}'{_near(str(value), values)}; it is one of: {', '.join(values)}"
        )


def _near(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _word(family: str, text: str) -> bool:
    return bool(re.search(rf"\b{family.replace('_', ' ')}\w*", text.replace("_", " ")))


def _value(text: str) -> str | int | bool:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdecimal() else text


class Made(NamedTuple):
    """Tasks that were made, and what became of the other candidates."""

    pattern: str
    """In the words in which it was asked for."""
    wanted: int
    """Tasks."""
    order: Order
    proposal: Proposal

    @property
    def tasks(self) -> Sequence[Task]:
        """Those that were made for the pattern."""
        return [task for task in self.proposal.tasks if task.origin.pattern]

    @property
    def document(self) -> Json:
        """tau2's task file with the accounts beside it."""
        return {
            "tasks": [self._task(task) for task in self.tasks],
            "constraints": dict(self.order.constraints),
            "tools": list(self.order.tools),
            "tally": self.proposal.tally.model_dump(mode="json"),
            "examples": self._examples(),
        }

    def _task(self, task: Task) -> Json:
        purpose = {"purpose": f"{task.knobs['condition']}; made for '{self.pattern}'"}
        return as_tau2(task) | {"description": purpose}

    def _examples(self) -> dict[str, str]:
        return {f"{each.gate}:{each.reason}": each.detail for each in self.proposal.dropped}

    def summary(self) -> str:
        """In words."""
        tally, made = self.proposal.tally, len(self.tasks)
        fewer = f"{made} of the {self.wanted} tasks wanted, out of" if made < self.wanted else f"{made} tasks of"
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.rejected.items()))
        rejected = f"; rejected: {reasons}" if reasons else ""
        return f"{fewer} {tally.requested} candidates for {self.order}{rejected}"

    def failure(self) -> str:
        """Why there is no task at all."""
        examples = "".join(f"\n    {reason}: for example {detail}" for reason, detail in self._examples().items())
        return f"no task could be made: {self.summary()}{examples}"


def propose_for(pattern: str, count: int, world: Literal["tau2", "synthetic"], seed: int) -> Made:
    """Make so many tasks for a pattern; fewer, with the reasons, where the world has no more.

    Raises:
        SentinelError: the pattern is not understood or contradicts itself, or no task could be made.
    """
    order = understand(pattern)
    base = World.tau2() if world == "tau2" else World.from_data({})
    own = Tau2World(type="tau2") if world == "tau2" else SYNTHETIC
    maker = open_maker(Environment(world=own, user=ScriptedUser(type="scripted")), base)
    if not maker.matching(order.constraints, order.tools):
        raise SentinelError(f"--pattern: no kind of task is all of this at once: {order}; leave something out")
    held_out = manifest(benchmark_tasks("tau2-base"), World.tau2(), entities=True)
    target = Target("pattern", count, order.constraints, (), order.tools)
    bench = Bench(base, held_out, talking=maker.talking)
    made = Made(pattern, count, order, propose([target], generating(maker), bench, (seed, "propose", 0), fill=False))
    if not made.tasks:
        raise SentinelError(made.failure())
    return made
