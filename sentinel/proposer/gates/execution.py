"""Gates that execute: the gold answer runs, nothing but it succeeds, and the way there does not matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sentinel.env.mutants import mutants
from sentinel.env.scoring import score
from sentinel.proposer.gates.bench import Bench
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Task, ToolCall


def gold_replay(candidate: Task, bench: Bench) -> Rejection | None:
    """The gold answer runs without an error, twice, with equal results, and changes the records of one user only."""
    case = bench.case(candidate)
    first, second = case.gold, case.replay()
    if first.error:
        return Rejection(Reason.gold_error, first.error)
    if [r.text for r in first.results] != [r.text for r in second.results] or first.delta != second.delta:
        return Rejection(Reason.gold_differs, "two replays in fresh sessions gave different results")
    users = {*first.delta.get("users", {}), *(order["user_id"] for order in first.delta.get("orders", {}).values())}
    if len(users) > 1:
        return Rejection(Reason.several_users, ", ".join(sorted(users)))
    return None


def noop(candidate: Task, bench: Bench) -> Rejection | None:
    """Doing nothing scores 0, and so do the writes that tempt a careless agent, even if it says all the right words."""
    case = bench.case(candidate)
    gold = case.gold.delta
    if score(candidate, {}, gold, []).total > 0:
        return Rejection(Reason.noop_succeeds)
    if not candidate.temptations:
        return None
    session = case.open()
    allowed = [call for call in candidate.temptations if not session.call(call).error]
    if allowed and score(candidate, session.delta(), gold, candidate.communicate).total > 0:
        return Rejection(Reason.wrong_write_succeeds, ", ".join(f"{call.name}({call.arguments})" for call in allowed))
    return None


def mutated(candidate: Task, bench: Bench) -> Rejection | None:
    """The gold answer with one argument changed, one write left out, or a fact not told, scores 0."""
    case = bench.case(candidate)
    gold = case.gold.delta
    for mutant in mutants(candidate, case.db, seed=0):
        if mutant.name == "silent":
            if score(candidate, gold, gold, ()).total > 0:
                return Rejection(Reason.mutant_succeeds, mutant.name)
            continue
        session = case.open()
        for call in mutant.calls:
            session.apply(call)
        if session.delta() == gold:
            return Rejection(Reason.mutant_succeeds, mutant.name)
    return None


def end_state(candidate: Task, bench: Bench) -> Rejection | None:
    """Whatever order an agent takes the writes in, or lists the items in, what goes through ends in the same state."""
    case = bench.case(candidate)
    for reason, calls in _reordered(case.writes):
        delta = case.delta(calls)
        if delta is not None and delta != case.gold.delta:
            return Rejection(reason, ", ".join(call.name for call in calls))
    return None


def _reordered(writes: Sequence[ToolCall]) -> Iterator[tuple[Reason, list[ToolCall]]]:
    """Each pair of neighbours swapped, all writes reversed, and each list of items reversed."""
    for place in range(len(writes) - 1):
        yield Reason.order_matters, [*writes[:place], writes[place + 1], writes[place], *writes[place + 2 :]]
    if len(writes) > 2:
        yield Reason.order_matters, list(reversed(writes))
    for place, call in enumerate(writes):
        if len(call.arguments.get("item_ids", ())) > 1:
            lists = {name: v[::-1] for name, v in call.arguments.items() if isinstance(v, list)}
            turned = call.model_copy(update={"arguments": {**call.arguments, **lists}})
            yield Reason.item_order_matters, [*writes[:place], turned, *writes[place + 1 :]]
