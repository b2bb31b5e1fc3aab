"""The gates a candidate task has to pass, cheap before dear; each drop has a reason from a closed set.

    bench = Bench(world=world, held_out=manifest, archive={signature(task, world) for task in earlier})
    rejection = first_rejection(candidate, bench)    # None, or e.g. Rejection(Reason.gold_error, "return_…: Error: …")

A gate is a function `(candidate, bench) -> Rejection | None`. These are the executable ones and always on;
solvability, which costs episodes of the policy, is in `sentinel.proposer.frontier`. Not checked here: whether the words
of the user determine every argument, and whether every one-argument mutant of the gold answer fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from pydantic import ValidationError

from sentinel.env.overlay import Delta, World
from sentinel.env.scoring import gold_delta, score
from sentinel.env.tau2 import tool_schemas
from sentinel.proposer.leakage import Manifest, signature, violations
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Json, Task, ToolCall


@dataclass(frozen=True)
class Bench:
    """What candidates are held against."""

    world: World
    held_out: Manifest
    archive: set[str] = field(default_factory=set)
    """Solution signatures of all earlier tasks; grows with every accepted candidate."""


Check = Callable[[Task, Bench], Rejection | None]


def schema(candidate: Task, bench: Bench) -> Rejection | None:
    """The task belongs to this world, its records and calls fit tau2's models, and what must be said can be said."""
    if candidate.world != bench.world.hash:
        return Rejection(Reason.wrong_world, f"made for {candidate.world}, not {bench.world.hash}")
    if not candidate.scenario.reason_for_call.strip():
        return Rejection(Reason.empty_request)
    try:
        bench.world.open(candidate.records)
    except ValueError as error:
        return Rejection(Reason.invalid_record, _brief(error))
    for needle in candidate.communicate:
        if not needle.strip() or "," in needle:
            return Rejection(
                Reason.unsayable, f"{needle!r}: tau2 removes commas from what the agent says, and finds '' in anything"
            )
    return next(filter(None, map(_malformed, (*candidate.gold, *candidate.temptations))), None)


def _brief(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


@cache
def _parameters() -> Mapping[str, Mapping[str, Json]]:
    """Parameter schema of every tool, as tau2 shows it to a model."""
    return {entry["function"]["name"]: entry["function"]["parameters"] for entry in tool_schemas()}


_PYTHON_TYPES: Mapping[str, type] = {"string": str, "array": list, "number": float, "boolean": bool}


def _malformed(call: ToolCall) -> Rejection | None:
    if (parameters := _parameters().get(call.name)) is None:
        return Rejection(Reason.unknown_tool, call.name)
    properties: Mapping[str, Json] = parameters["properties"]
    for name in parameters.get("required", ()):
        if name not in call.arguments:
            return Rejection(Reason.missing_argument, f"{call.name}({name})")
    for name, value in call.arguments.items():
        if name not in properties:
            return Rejection(Reason.unknown_argument, f"{call.name}({name})")
        if not _fits(value, properties[name]):
            return Rejection(Reason.wrong_type, f"{call.name}({name}={value!r})")
    return None


def _fits(value: Json, wanted: Mapping[str, Json]) -> bool:
    """Whether a value has the JSON type of a tool parameter (`items` looked into)."""
    if not isinstance(value, _PYTHON_TYPES.get(wanted.get("type", ""), object)):
        return False
    return not isinstance(value, list) or all(_fits(part, wanted.get("items", {})) for part in value)


class _Replay(NamedTuple):
    texts: list[str]
    error: str
    delta: Delta


def _replay(task: Task, world: World) -> _Replay:
    session = world.open(task.records)
    results = [(call.name, session.call(call)) for call in task.gold]
    error = next((f"{name}: {result.text}" for name, result in results if result.error), "")
    return _Replay([result.text for _, result in results], error, session.delta())


def gold_replay(candidate: Task, bench: Bench) -> Rejection | None:
    """The gold answer runs without an error, twice, with equal results, and changes the records of one user only."""
    first, second = _replay(candidate, bench.world), _replay(candidate, bench.world)
    if first.error:
        return Rejection(Reason.gold_error, first.error)
    if first != second:
        return Rejection(Reason.gold_differs, "two replays in fresh sessions gave different results")
    users = {*first.delta.get("users", {}), *(order["user_id"] for order in first.delta.get("orders", {}).values())}
    if len(users) > 1:
        return Rejection(Reason.several_users, ", ".join(sorted(users)))
    return None


def noop(candidate: Task, bench: Bench) -> Rejection | None:
    """Doing nothing scores 0, and so do the writes that tempt a careless agent, even if it says all the right words."""
    gold = gold_delta(bench.world, candidate)
    if score(candidate, {}, gold, []).total > 0:
        return Rejection(Reason.noop_succeeds)
    session = bench.world.open(candidate.records)
    allowed = [call for call in candidate.temptations if not session.call(call).error]
    if allowed and score(candidate, session.delta(), gold, candidate.communicate).total > 0:
        return Rejection(Reason.wrong_write_succeeds, ", ".join(f"{call.name}({call.arguments})" for call in allowed))
    return None


def leakage(candidate: Task, bench: Bench) -> Rejection | None:
    """Nothing is shared with the evaluation sets."""
    found = violations(candidate, bench.held_out, bench.world)
    return Rejection(Reason(f"leaked_{found[0].split()[0]}"), ", ".join(found)) if found else None


def duplicate(candidate: Task, bench: Bench) -> Rejection | None:
    """No earlier task has the same solution."""
    solution = signature(candidate, bench.world)
    return Rejection(Reason.same_solution, solution) if solution in bench.archive else None


GATES: tuple[Check, ...] = (schema, gold_replay, noop, leakage, duplicate)
"""The executable gates in the order in which a candidate meets them."""


def first_rejection(candidate: Task, bench: Bench) -> Rejection | None:
    """The verdict of the first gate that rejects the candidate, or `None`."""
    return next(filter(None, (gate(candidate, bench) for gate in GATES)), None)
