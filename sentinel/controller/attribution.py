"""To whom a failure belongs: only the agent's failures may become patterns, and so training tasks.

    diagnosis = diagnose(trajectories)
    diagnosis.tally       # requested = kept (successes and the agent's failures) + rejected (others') + void

Up to 30% of failed retail episodes are the user simulator's, and some gold answers are broken (tau2-bench PR #392); a
Controller that does not ask this first mines noise. Voids say nothing about anybody: they are counted, never labelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from sentinel.controller.evidence import decisive, evidence
from sentinel.controller.steps import Steps, read_steps
from sentinel.controller.suspicion import suspicions
from sentinel.env.traits import characteristics, in_play
from sentinel.records import Attribution, Failure, Label, Outcome, Party, Tally, Trajectory


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
    steps = read_steps(trajectory)
    labels = evidence(trajectory, steps)
    index = decisive(trajectory, labels)
    return Failure(
        trajectory=f"{trajectory.task.id}#{trajectory.trial}",
        task=trajectory.task.id,
        trial=trajectory.trial,
        knobs=characteristics(trajectory.task),
        tools=tuple(sorted(in_play(trajectory.task))),
        made_for=trajectory.task.origin.pattern,
        labels=labels,
        decisive=index,
        attribution=attribute(trajectory, steps, labels[index]),
    )


def attribute(trajectory: Trajectory, steps: Steps, step: Label) -> Attribution:
    """Who is at fault, given the decisive step; the agent unless evidence against somebody else decides the matter."""
    found = suspicions(trajectory, steps, step)
    verdict = next((one.suspicion for one in found if one.decides), None)
    rest = tuple(one.suspicion for one in found if one.suspicion is not verdict)
    if verdict is None:
        return Attribution(party=Party.agent, reason=f"{step.kind.value} at turn {step.turn}", suspicions=rest)
    return Attribution(party=verdict.party, reason=verdict.reason, suspicions=rest)
