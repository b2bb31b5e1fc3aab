"""The gates a candidate task has to pass, cheap before dear; each drop has a reason from a closed set.

    bench = Bench(world=world, held_out=manifest, archive={signature(task, world) for task in earlier})
    rejection = first_rejection(candidate, bench)    # None, or e.g. Rejection(Reason.gold_error, "return_…: Error: …")

A gate is a function `(candidate, bench) -> Rejection | None`. These are the executable ones and always on;
solvability, which costs episodes of the policy, is in `sentinel.proposer.frontier`.
"""

from __future__ import annotations

from sentinel.proposer.gates.bench import Bench, Check
from sentinel.proposer.gates.determined import determined
from sentinel.proposer.gates.execution import end_state, gold_replay, mutated, noop
from sentinel.proposer.gates.form import schema
from sentinel.proposer.gates.others import duplicate, leakage, solved_by_talking
from sentinel.proposer.gates.policy import identity, policy
from sentinel.proposer.gates.wording import communicate, wording
from sentinel.proposer.reasons import Rejection
from sentinel.records import Task

GATES: tuple[Check, ...] = (
    *(schema, gold_replay, noop, communicate, policy, identity, wording, determined),
    *(leakage, duplicate, end_state, mutated, solved_by_talking),
)
"""The executable gates in the order in which a candidate meets them."""


def first_rejection(candidate: Task, bench: Bench) -> Rejection | None:
    """The verdict of the first gate that rejects the candidate, or `None`."""
    return next(filter(None, (gate(candidate, bench) for gate in GATES)), None)


__all__ = [
    "GATES",
    "Bench",
    "Check",
    "communicate",
    "determined",
    "duplicate",
    "end_state",
    "first_rejection",
    "gold_replay",
    "identity",
    "leakage",
    "mutated",
    "noop",
    "policy",
    "schema",
    "solved_by_talking",
    "wording",
]
