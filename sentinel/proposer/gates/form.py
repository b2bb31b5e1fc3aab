"""The first gate: is it a task of this world at all?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import ValidationError

from sentinel.env.tau2 import tool_schemas
from sentinel.proposer.gates.bench import Bench
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Json, Task, ToolCall


def schema(candidate: Task, bench: Bench) -> Rejection | None:
    """The task belongs to this world, its records and calls fit tau2's models, and what must be said can be said."""
    if candidate.world != bench.world.hash:
        return Rejection(Reason.wrong_world, f"made for {candidate.world}, not {bench.world.hash}")
    if not candidate.scenario.reason_for_call.strip():
        return Rejection(Reason.empty_request)
    try:
        bench.case(candidate).open()
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
