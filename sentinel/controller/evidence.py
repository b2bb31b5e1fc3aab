"""What went wrong in a failed episode, step by step, and which step was the decisive one. No language model.

    labels = evidence(trajectory, read_steps(trajectory))
    labels[decisive(trajectory, labels)]      # Label(kind=wrong_argument, turn=4, tool='cancel_pending_order', …)

A label is a difference from the gold answer (writes, end states, communicated facts, transfer) or from good conduct
(authentication, consent, one call at a time, no loops), with the turn it happened in. The decisive label is the first
step from which the episode could not succeed any more: conduct that changed nothing is evidence, never decisive. What
is missing at the end is explained by what prevented it: a refusal, a transfer, a loop, a call that never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sentinel.controller.conduct import conduct
from sentinel.controller.facts import statements
from sentinel.controller.steps import Steps, differing
from sentinel.controller.writes import compare
from sentinel.env.overlay import TRANSFER_TOOL, WRITE_TOOLS
from sentinel.records import Ending, Label, LabelKind, Role, ToolCall, Trajectory

_WRITES = frozenset(
    {
        LabelKind.against_policy,
        LabelKind.extra_write,
        LabelKind.wrong_record,
        LabelKind.wrong_argument,
        LabelKind.wrong_order,
        LabelKind.missing_write,
    }
)
_WORDS = frozenset(
    {
        LabelKind.missing_communication,
        LabelKind.wrong_communication,
        LabelKind.false_refusal,
        LabelKind.missing_transfer,
        LabelKind.against_policy,
    }
)
_ABSENT = frozenset({LabelKind.missing_write, LabelKind.missing_communication, LabelKind.missing_transfer})
_EXHAUSTED = frozenset({LabelKind.out_of_turns, LabelKind.out_of_context})
_PREVENTS = frozenset({LabelKind.false_refusal, LabelKind.needless_transfer}) | _EXHAUSTED
_ERRORS = frozenset({LabelKind.malformed_call, LabelKind.hallucinated_tool, LabelKind.tool_error})
_ITEM = re.compile(r'"name": ?"([^"]{1,200})",[^{}]{0,200}?"item_id": ?"([^"]{1,40})"')
"""Name and id of an item in a tool's answer."""
_RANK = {
    kind: rank
    for rank, kind in enumerate(
        (
            LabelKind.wrong_record,
            LabelKind.wrong_argument,
            LabelKind.against_policy,
            LabelKind.unconfirmed_write,
            LabelKind.extra_write,
            LabelKind.wrong_order,
            LabelKind.needless_transfer,
            LabelKind.false_refusal,
            LabelKind.wrong_communication,
            LabelKind.malformed_call,
            LabelKind.hallucinated_tool,
            LabelKind.loop,
            LabelKind.tool_error,
            LabelKind.out_of_turns,
            LabelKind.out_of_context,
            LabelKind.missing_transfer,
            LabelKind.missing_write,
            LabelKind.missing_communication,
            LabelKind.gave_up,
            LabelKind.unauthenticated,
            LabelKind.repeated_call,
            LabelKind.parallel_calls,
        )
    )
}
"""Which of two labels of one turn says more. A write that the gold answer makes with other arguments was allowed: its
arguments are wrong, whatever rule they break. Only what the gold answer does not do at all had to be refused."""


def evidence(trajectory: Trajectory, steps: Steps) -> tuple[Label, ...]:
    """All labels of a failed episode whose `steps` were read, by turn; never empty."""
    labels = [*_written(trajectory, steps), *statements(trajectory, steps), *_transfer(trajectory, steps)]
    labels += [*conduct(steps), *_ending(trajectory, steps)]
    if not any(label.kind in _WRITES | _WORDS | _PREVENTS for label in labels):
        labels.append(Label(kind=LabelKind.gave_up, turn=steps.last, actual=trajectory.ending.value))
    return tuple(sorted(_distinct(labels), key=_by_turn))


def _distinct(labels: Sequence[Label]) -> list[Label]:
    """The labels without repetitions of one and the same finding; a rule broken says more than none."""
    ordered = sorted(reversed(labels), key=lambda label: label.rule is not None)
    return list({(label.kind, label.turn, label.tool, label.argument): label for label in ordered}.values())


def _by_turn(label: Label) -> tuple[int, int, str, str]:
    return label.turn, _RANK[label.kind], label.tool or "", label.argument or ""


def decisive(trajectory: Trajectory, labels: Sequence[Label]) -> int:
    """Index of the first label from which the episode could not succeed; the labels are those of `evidence`."""
    kinds = _fatal(trajectory, labels)
    refused = _fatal_errors(trajectory, labels, kinds)
    fatal = [index for index, label in enumerate(labels) if label.kind in kinds or label in refused]
    first = min(fatal, key=lambda index: _by_turn(labels[index]), default=len(labels) - 1)
    unasked = _unasked(trajectory, labels, labels[first])
    return first if unasked is None else unasked


def _unasked(trajectory: Trajectory, labels: Sequence[Label], wrong: Label) -> int | None:
    """Index of the missing confirmation that left items out of a write: the user would have named them when asked.

    So it is where the user had spoken of none of them before the write, and asked for all of them afterwards.
    """
    unconfirmed = (LabelKind.unconfirmed_write, wrong.turn, wrong.tool)
    index = next((n for n, label in enumerate(labels) if (label.kind, label.turn, label.tool) == unconfirmed), None)
    wanted, given = wrong.expected, wrong.actual
    if index is None or wrong.argument != "item_ids" or not isinstance(wanted, list) or not isinstance(given, list):
        return None
    answers = [message.content for message in trajectory.messages if message.role is Role.tool]
    known = {item: name.lower() for text in answers for name, item in _ITEM.findall(text)}
    names = {known.get(str(item)) for item in wanted if item not in given}
    said = [(message.turn, message.content.lower()) for message in trajectory.messages if message.role is Role.user]
    before, after = (" ".join(text for turn, text in said if (turn < wrong.turn) is early) for early in (True, False))
    late = [name is not None and name in after and name not in before for name in names]
    return index if late and all(late) and all(item in wanted for item in given) else None


def _fatal(trajectory: Trajectory, labels: Sequence[Label]) -> frozenset[LabelKind]:
    """Kinds that cost this episode its reward, given what its score lacks and what is missing at its end."""
    reward = trajectory.reward
    kinds: frozenset[LabelKind] = frozenset()
    if reward is None or not reward.db:
        kinds |= _WRITES
    if reward is None or not reward.communicate:
        kinds |= _WORDS
    found = {label.kind for label in labels}
    if kinds & _ABSENT & found or not kinds & found:
        kinds |= _PREVENTS | ({LabelKind.loop} if _EXHAUSTED & found else set())
    if LabelKind.missing_transfer in found and not gold_writes(trajectory):
        kinds -= {LabelKind.false_refusal}  # there was nothing to refuse: the user should have been handed over
    if LabelKind.extra_write in found and _declined(trajectory):
        kinds |= {LabelKind.unconfirmed_write}
    return kinds


def _fatal_errors(trajectory: Trajectory, labels: Sequence[Label], kinds: frozenset[LabelKind]) -> list[Label]:
    """The refused attempts at writes that are missing at the end, and the broken call that ended the episode."""
    found = {label.kind for label in labels}
    if not (kinds & _ABSENT & found or not kinds & found):
        return []
    missing = {label.tool for label in labels if label.kind is LabelKind.missing_write}
    errors = [label for label in labels if label.kind in _ERRORS]
    tried = [label for label in errors if label.kind is LabelKind.tool_error and label.tool in missing]
    ended = errors[-1:] if trajectory.ending in (Ending.malformed, Ending.error) else []
    return tried + ended


def _declined(trajectory: Trajectory) -> bool:
    return any(not intent.confirms for intent in trajectory.task.scenario.intents)


def gold_writes(trajectory: Trajectory) -> list[ToolCall]:
    """The writes of the gold answer, in order."""
    return [call for call in trajectory.task.gold if call.name in WRITE_TOOLS]


def _to_refuse(trajectory: Trajectory) -> bool:
    return trajectory.task.knobs.get("family") == "refuse" and not gold_writes(trajectory)


def _written(trajectory: Trajectory, steps: Steps) -> Iterator[Label]:
    """Differences of the writes; where the right answer is to refuse, even a refused attempt is against the policy."""
    if _to_refuse(trajectory):
        for step in steps.calls:
            if step.writes:
                yield Label(
                    kind=LabelKind.against_policy, turn=step.turn, tool=step.call.name, actual=step.call.arguments
                )
        return
    differs = differing(trajectory.world_delta, trajectory.gold_delta)
    labels = compare(gold_writes(trajectory), steps, differs)
    yield from labels or _states(trajectory, differs, steps.last)


def _states(trajectory: Trajectory, differs: frozenset[str], last: int) -> Iterator[Label]:
    """End states that differ though the writes explain nothing: the record is named, the step is unknown."""
    for key in sorted(differs):
        changed = any(key in records for records in trajectory.world_delta.values())
        kind = LabelKind.extra_write if changed else LabelKind.missing_write
        yield Label(kind=kind, turn=last, expected=None if changed else key, actual=key if changed else None)


def _transfer(trajectory: Trajectory, steps: Steps) -> Iterator[Label]:
    wanted = any(call.name == TRANSFER_TOOL for call in trajectory.task.gold)
    made = steps.transferred
    if wanted and made is None:
        yield Label(kind=LabelKind.missing_transfer, turn=steps.last, tool=TRANSFER_TOOL)
    if made is not None and not wanted:
        yield Label(kind=LabelKind.needless_transfer, turn=made.turn, tool=TRANSFER_TOOL)


def _ending(trajectory: Trajectory, steps: Steps) -> Iterator[Label]:
    match trajectory.ending:
        case Ending.out_of_turns:
            yield Label(kind=LabelKind.out_of_turns, turn=steps.last, actual=trajectory.ending.value)
        case Ending.out_of_context:
            yield Label(kind=LabelKind.out_of_context, turn=steps.last, actual=trajectory.ending.value)
        case Ending.malformed:
            yield Label(kind=LabelKind.malformed_call, turn=steps.last)
        case _ if not steps.calls:
            yield Label(kind=LabelKind.gave_up, turn=steps.last)
