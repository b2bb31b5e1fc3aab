"""How the agent behaved, whatever came of it: broken calls, loops, parallel calls, no authentication, no consent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from sentinel.artifacts import canonical
from sentinel.controller.steps import PRIVATE_TOOLS, Step, Steps, record_of
from sentinel.env.overlay import TOOLS
from sentinel.env.rules import broken_by, refused_by, unfit
from sentinel.records import Label, LabelKind

LOOP = 3
"""Equal calls that make a loop, without a write in between."""


def conduct(steps: Steps) -> Iterator[Label]:
    """All labels of conduct, in no order."""
    yield from (Label(kind=LabelKind.malformed_call, turn=turn) for turn in steps.malformed)
    yield from filter(None, map(_broken, steps.calls))
    yield from _repeated(steps)
    yield from _parallel(steps)
    yield from _unauthenticated(steps)
    yield from _forbidden(steps)


def _broken(step: Step) -> Label | None:
    """A call that could not work: of an unknown tool, with arguments that no tool takes, or refused by the tool."""
    name, arguments = step.call.name, step.call.arguments
    if name not in TOOLS:
        return Label(kind=LabelKind.hallucinated_tool, turn=step.turn, tool=name, actual=arguments)
    if not step.error:
        return None
    if unfit(step.answer):
        return Label(kind=LabelKind.malformed_call, turn=step.turn, tool=name, actual=arguments)
    rule = refused_by(step.answer) if step.writes else None
    return Label(kind=LabelKind.tool_error, turn=step.turn, tool=name, actual=arguments, rule=rule)


def _repeated(steps: Steps) -> Iterator[Label]:
    """Equal calls without a write in between, which can bring nothing new: repeated once, or in a loop."""
    counts: Counter[str] = Counter()
    repeats: dict[str, Label] = {}
    for step in steps.calls:
        if step.writes and not step.error:
            counts.clear()
        key = canonical({"name": step.call.name, "arguments": step.call.arguments})
        counts[key] += 1
        if counts[key] in (2, LOOP):
            kind = LabelKind.loop if counts[key] == LOOP else LabelKind.repeated_call
            if key not in repeats or repeats[key].kind is LabelKind.repeated_call:
                repeats[key] = Label(kind=kind, turn=step.turn, tool=step.call.name, actual=step.call.arguments)
    yield from repeats.values()


def _parallel(steps: Steps) -> Iterator[Label]:
    """Several calls in one turn, where the policy allows one: a label for the first turn."""
    for turn, group in groupby(steps.calls, key=lambda step: step.turn):
        names = [step.call.name for step in group]
        if len(names) > 1:
            yield Label(kind=LabelKind.parallel_calls, turn=turn, tool=names[0], actual=names)
            return


def _unauthenticated(steps: Steps) -> Iterator[Label]:
    """The first look at, or change of, a customer's records before it was known who the customer is."""
    for step in steps.calls:
        if step.call.name in PRIVATE_TOOLS and not step.authenticated:
            yield Label(kind=LabelKind.unauthenticated, turn=step.turn, tool=step.call.name)
            return


def _forbidden(steps: Steps) -> Iterator[Label]:
    """Writes that went through without consent, or against a rule that the tools do not check."""
    owners, customer, transfer = steps.owners(), steps.customer, steps.transferred
    for step in steps.written:
        if not step.confirmed:
            yield Label(kind=LabelKind.unconfirmed_write, turn=step.turn, tool=step.call.name)
        record = record_of(step.call)
        owner = owners.get(record, record if "user_id" in step.call.arguments else "")
        rule = broken_by(step.call, customer, owner, transfer is not None and transfer.turn < step.turn)
        if rule:
            yield Label(
                kind=LabelKind.against_policy,
                turn=step.turn,
                tool=step.call.name,
                actual=step.call.arguments,
                rule=rule,
            )
