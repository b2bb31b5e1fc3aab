"""The closed set of words with which a gate rejects a candidate; every drop is counted under one of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from sentinel.records import Gate


class Reason(StrEnum):
    """Why a candidate is dropped; `GATE_OF` tells the gate that says so."""

    unsatisfiable = "unsatisfiable"
    """The generator found no world in which the constraints can be met."""
    off_target = "off_target"
    """The task lacks a knob that the directive asked for."""

    wrong_world = "wrong_world"
    invalid_record = "invalid_record"
    empty_request = "empty_request"
    unknown_tool = "unknown_tool"
    missing_argument = "missing_argument"
    unknown_argument = "unknown_argument"
    wrong_type = "wrong_type"
    unsayable = "unsayable"
    """A fact to communicate is empty, or has a comma, which tau2 removes from what the agent says."""

    gold_error = "gold_error"
    gold_differs = "gold_differs"
    several_users = "several_users"

    noop_succeeds = "noop_succeeds"
    wrong_write_succeeds = "wrong_write_succeeds"

    leaked_task = "leaked_task"
    leaked_user = "leaked_user"
    leaked_order = "leaked_order"
    leaked_identity = "leaked_identity"
    leaked_solution = "leaked_solution"

    same_solution = "same_solution"

    never_solved = "never_solved"
    """Parked rather than condemned: a later policy may be ready for it."""
    always_solved = "always_solved"


_REASONS: Mapping[Gate, tuple[Reason, ...]] = {
    Gate.generation: (Reason.unsatisfiable, Reason.off_target),
    Gate.schema: (
        *(Reason.wrong_world, Reason.invalid_record, Reason.empty_request, Reason.unknown_tool),
        *(Reason.missing_argument, Reason.unknown_argument, Reason.wrong_type, Reason.unsayable),
    ),
    Gate.gold_replay: (Reason.gold_error, Reason.gold_differs, Reason.several_users),
    Gate.noop: (Reason.noop_succeeds, Reason.wrong_write_succeeds),
    Gate.leakage: tuple(reason for reason in Reason if reason.startswith("leaked_")),
    Gate.duplicate: (Reason.same_solution,),
    Gate.solvability: (Reason.never_solved, Reason.always_solved),
}
GATE_OF: Mapping[Reason, Gate] = MappingProxyType(
    {reason: gate for gate, reasons in _REASONS.items() for reason in reasons}
)
"""The gate that says a reason."""


class Rejection(NamedTuple):
    """Why a candidate is dropped."""

    reason: Reason
    detail: str = ""

    @property
    def gate(self) -> Gate:
        """The gate that says so."""
        return GATE_OF[self.reason]

    def __str__(self) -> str:
        """`gate:reason`, the key under which it is counted."""
        return f"{self.gate}:{self.reason}"
