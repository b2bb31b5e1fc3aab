"""`sentinel propose`: tasks for a weakness that somebody names, as a tool of its own.

    made = propose_for("exchange with a choice taken back", 20, "tau2", seed=7)
    made.document            # {"tasks": [...], "tally": {...}}; the tasks are tau2's, and tau2 can run them

The pattern is read by words that the generator knows: names of its kinds and tools, `knob=value`, and what people call
them (`ALIASES`); nothing else is guessed. Tasks pass the same gates as those of an experiment, except that no policy
probes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
_ASSIGNED = re.compile(r"(\w+)\s*=\s*([\w+./-]+)")


class Order(NamedTuple):
    """A pattern in terms of the generator."""

    constraints: dict[str, str | int | bool]
    tools: tuple[str, ...]


def understand(pattern: str) -> Order:
    """What a pattern asks for.

    Raises:
        SentinelError: none of its words is known.
    """
    text = pattern.lower()
    knobs: dict[str, str | int | bool] = {name: _value(value) for name, value in _ASSIGNED.findall(text)}
    tools = tuple(tool for tool in TOOL_OF.values() if tool in text)
    rest = _ASSIGNED.sub(" ", text)
    named = [kind.condition for kind in natural_kinds() if kind.condition in rest]
    if named:
        knobs["condition"] = named[0]
    else:
        knobs |= {knob: value for words, (knob, value) in ALIASES.items() if words in rest}
        families = [family for family in dict.fromkeys(k.family for k in natural_kinds()) if _word(family, rest)]
        if families and "family" not in knobs and not tools:
            knobs["family"] = families[0]
    if not knobs and not tools:
        known = ", ".join([*dict.fromkeys(kind.family for kind in natural_kinds()), *ALIASES, *TOOL_OF.values()])
        raise SentinelError(f"--pattern: nothing is known of '{pattern}'; name a knob (knob=value) or one of: {known}")
    return Order(knobs, tools)


def _word(family: str, text: str) -> bool:
    return bool(re.search(rf"\b{family.replace('_', ' ')}\w*", text.replace("_", " ")))


def _value(text: str) -> str | int | bool:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdecimal() else text


class Made(NamedTuple):
    """Tasks that were made, and what became of the other candidates."""

    order: Order
    proposal: Proposal

    @property
    def tasks(self) -> Sequence[Task]:
        """Those that were made for the pattern."""
        return [task for task in self.proposal.tasks if task.origin.pattern]

    @property
    def document(self) -> Json:
        """tau2's task file with the accounts beside it."""
        examples = {f"{each.gate}:{each.reason}": each.detail for each in self.proposal.dropped}
        return {
            "tasks": [as_tau2(task) for task in self.tasks],
            "constraints": dict(self.order.constraints),
            "tools": list(self.order.tools),
            "tally": self.proposal.tally.model_dump(mode="json"),
            "examples": examples,
        }

    def summary(self) -> str:
        """In words."""
        tally = self.proposal.tally
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.rejected.items()))
        wanted = ", ".join([*(f"{k}={v}" for k, v in self.order.constraints.items()), *self.order.tools])
        return f"{len(self.tasks)} tasks of {tally.requested} candidates for {wanted}" + (
            f"; rejected: {reasons}" if reasons else ""
        )


def propose_for(pattern: str, count: int, world: Literal["tau2", "synthetic"], seed: int) -> Made:
    """Make so many tasks for a pattern; fewer, with the reasons, where the world has no more.

    Raises:
        SentinelError: the pattern is not understood, or no task could be made.
    """
    order = understand(pattern)
    base = World.tau2() if world == "tau2" else World.from_data({})
    own = Tau2World(type="tau2") if world == "tau2" else SYNTHETIC
    maker = open_maker(Environment(world=own, user=ScriptedUser(type="scripted")), base)
    held_out = manifest(benchmark_tasks("tau2-base"), World.tau2(), entities=True)
    target = Target("pattern", count, order.constraints, (), order.tools)
    proposal = propose([target], generating(maker), Bench(base, held_out, talking=maker.talking), (seed, "propose", 0))
    made = Made(order, proposal)
    if not made.tasks:
        raise SentinelError(f"no task could be made: {made.summary()}")
    return made
