"""Gates against other tasks (nothing leaked, nothing twice), and the last one: can it be solved by talking?"""

from __future__ import annotations

from sentinel.proposer.gates.bench import Bench
from sentinel.proposer.leakage import violations
from sentinel.proposer.natural.dialogue import converse
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Task


def leakage(candidate: Task, bench: Bench) -> Rejection | None:
    """Nothing is shared with the evaluation sets."""
    found = violations(candidate, bench.held_out, bench.world, bench.case(candidate).signature)
    return Rejection(Reason(f"leaked_{found[0].split()[0]}"), ", ".join(found)) if found else None


def duplicate(candidate: Task, bench: Bench) -> Rejection | None:
    """No earlier task has the same solution."""
    solution = bench.case(candidate).signature
    return Rejection(Reason.same_solution, solution) if solution in bench.archive else None


def solved_by_talking(candidate: Task, bench: Bench) -> Rejection | None:
    """The reference agent, which knows neither gold answer nor scenario, reaches the goal with the scripted user."""
    if not bench.talking:
        return None
    case = bench.case(candidate)
    problem = converse(candidate, case.open(), case.gold.delta).problem
    return Rejection(Reason.unsolved_by_talking, problem) if problem else None
