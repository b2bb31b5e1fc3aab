"""To whom a failure belongs: only the agent's failures may become patterns, and so training tasks.

    diagnosis = diagnose(trajectories)
    diagnosis.tally       # requested = kept (successes and the agent's failures) + rejected (others') + void

Up to 30% of failed retail episodes are the user simulator's, and some gold answers are broken (tau2-bench PR #392); a
Controller that does not ask this first mines noise. Voids say nothing about anybody: they are counted, never labelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sentinel.controller.evidence import decisive, evidence, gold_writes
from sentinel.controller.steps import agrees, differing, read_steps, record_of
from sentinel.env.users import FAULT
from sentinel.records import (
    Attribution,
    Ending,
    Failure,
    Label,
    LabelKind,
    Outcome,
    Party,
    Role,
    Tally,
    ToolCall,
    Trajectory,
)

_LEAVES = ("###TRANSFER###", "###OUT-OF-SCOPE###")
_STOPS = "###STOP###"
_AT_THE_END = frozenset(
    {
        LabelKind.missing_write,
        LabelKind.missing_communication,
        LabelKind.missing_transfer,
        LabelKind.gave_up,
    }
)


class Diagnosis(NamedTuple):
    """What the Controller found in a batch."""

    failures: tuple[Failure, ...]
    """All failures, explained, whoever is at fault; sorted by task and trial."""
    successes: tuple[Trajectory, ...]
    tally: Tally
    """Rejected are failures of others than the agent, by party; void are voids, by reason."""

    @property
    def agent_failures(self) -> list[Failure]:
        """Those that may become patterns."""
        return [failure for failure in self.failures if failure.attribution.party is Party.agent]


def diagnose(trajectories: Iterable[Trajectory]) -> Diagnosis:
    """Explain every failure of a batch and account for every episode."""
    ordered = sorted(trajectories, key=lambda played: (played.task.id, played.trial))
    failures = tuple(explain(played) for played in ordered if played.outcome is Outcome.failure)
    successes = tuple(played for played in ordered if played.outcome is Outcome.success)
    others = Counter(f.attribution.party.value for f in failures if f.attribution.party is not Party.agent)
    void = Counter(_void_reason(played) for played in ordered if played.outcome is Outcome.void)
    kept = len(successes) + len(failures) - others.total()
    tally = Tally(requested=len(ordered), kept=kept, rejected=dict(others), void=dict(void))
    return Diagnosis(failures, successes, tally.check())


def _void_reason(played: Trajectory) -> str:
    return played.void_reason.value if played.void_reason else "unknown"


def explain(trajectory: Trajectory) -> Failure:
    """The labels of a failed episode, its decisive step, and who is at fault."""
    labels = evidence(trajectory)
    index = decisive(trajectory, labels)
    return Failure(
        trajectory=f"{trajectory.task.id}#{trajectory.trial}",
        task=trajectory.task.id,
        trial=trajectory.trial,
        knobs=trajectory.task.knobs,
        labels=labels,
        decisive=index,
        attribution=attribute(trajectory, labels[index]),
    )


def attribute(trajectory: Trajectory, step: Label) -> Attribution:
    """Who is at fault, given the decisive step; the agent unless there is evidence against somebody else."""
    for party, reason in (
        (Party.infrastructure, _infrastructure(trajectory)),
        (Party.task, _task(trajectory)),
        (Party.user_simulator, _user(trajectory, step)),
    ):
        if reason:
            return Attribution(party=party, reason=reason)
    return Attribution(party=Party.agent, reason=f"{step.kind.value} at turn {step.turn}")


def _infrastructure(trajectory: Trajectory) -> str:
    """The record contradicts itself."""
    if trajectory.world_delta and not read_steps(trajectory).written:
        return "the world changed though no write went through"
    return ""


def _task(trajectory: Trajectory) -> str:
    """The gold answer cannot be right."""
    task = trajectory.task
    for fact in task.communicate:
        if any(statement.lower() in fact.lower() for statement in task.avoid):
            return f"the task both requires and forbids to say '{fact}'"
    broken = {record_of(call) for call in gold_writes(trajectory) if _exchanges_for_itself(call)}
    orders = differing(_orders(trajectory.world_delta), _orders(trajectory.gold_delta))
    if broken and orders and orders <= broken:
        return f"the gold answer exchanges an item for itself in {', '.join(sorted(orders))}"
    return ""


def _orders(delta: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    return {"orders": delta.get("orders", {})}


def _exchanges_for_itself(call: ToolCall) -> bool:
    items, new = call.arguments.get("item_ids"), call.arguments.get("new_item_ids")
    return isinstance(items, list) and isinstance(new, list) and any(a == b for a, b in zip(items, new, strict=False))


def _user(trajectory: Trajectory, step: Label) -> str:
    """The user broke a rule, or left before the agent could finish and nothing that the agent did was decisive."""
    for message in trajectory.messages:
        if message.role is Role.system and message.content.startswith(FAULT):
            return message.content
    if step.kind not in _AT_THE_END or trajectory.ending is not Ending.user_stop or not trajectory.messages:
        return ""
    final = trajectory.messages[-1]
    if final.role is not Role.user:
        return ""
    if any(token in final.content for token in _LEAVES) and read_steps(trajectory).transferred is None:
        return "the user left for a human agent without having been transferred"
    if _STOPS in final.content and _was_asked(trajectory) and _goes_on(final.content):
        return "the user stopped while agreeing to or asking for the next step"
    return ""


def _was_asked(trajectory: Trajectory) -> bool:
    """The agent's last words were a question."""
    last: Sequence[str] = [message.content for message in trajectory.messages if message.role is Role.assistant]
    return bool(last) and ("?" in last[-1] or "confirm" in last[-1].lower())


def _goes_on(text: str) -> bool:
    words = text.replace(_STOPS, "")
    return agrees(words) or "let me know once" in words.lower()
