"""The edge of the policy's ability: which candidates it solves sometimes, measured by playing them.

    probes = probe(candidates, 4, (7, "propose", 1), play)    # {task id: Probe(successes=1, failures=3, void={})}
    judge(probes["01-explore-000"], Solvability(trials=4, band=(1, 3)))    # None: kept
    lift(candidates, probes).patterns["f3a9"].lift    # 1.8: they fail 1.8 times as often as explore tasks

A group that always succeeds or always fails teaches GRPO nothing (its advantages are zero). Tasks that are never
solved are parked, not condemned. Lift is taken over all probed candidates, before selection makes patterns look alike.
Four episodes are a rough measure; a task near the band's edge may be kept in one iteration and not in the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Lift, Outcome, PatternLift, Task, Trajectory
from sentinel.rollout.episode import Assignment
from sentinel.rollout.pool import assign
from sentinel.seeds import SeedPart
from sentinel.spec.models import Solvability

Play = Callable[[Sequence[Assignment]], Iterable[Trajectory]]
"""Plays episodes with the current policy, in order."""


class Probe(NamedTuple):
    """What became of the episodes of one candidate."""

    successes: int
    failures: int
    void: Mapping[str, int]
    """Void episodes by reason."""


def probe(tasks: Sequence[Task], trials: int, seed: tuple[SeedPart, ...], play: Play) -> dict[str, Probe]:
    """Play every candidate `trials` times; the seed of an episode depends on `seed`, its task and its trial."""
    outcomes: dict[str, Counter[str]] = {task.id: Counter() for task in tasks}
    for trajectory in play(assign(tasks, trials, *seed)):
        outcomes[trajectory.task.id][trajectory.void_reason or trajectory.outcome] += 1
    return {task_id: _probe(counts) for task_id, counts in outcomes.items()}


def _probe(counts: Counter[str]) -> Probe:
    counted = (Outcome.success, Outcome.failure)
    void = {str(reason): number for reason, number in counts.items() if reason not in counted}
    return Probe(counts[Outcome.success], counts[Outcome.failure], void)


def judge(probed: Probe, solvability: Solvability) -> Rejection | None:
    """Whether a candidate with at least one counted episode lies outside the band.

    Void episodes lower both counts: a candidate must have shown at least `low` successes and `trials - high` failures.
    """
    low, high = solvability.band
    detail = f"{probed.successes} of {probed.successes + probed.failures} solved, {sum(probed.void.values())} void"
    if probed.successes < low:
        return Rejection(Reason.never_solved, detail)
    if probed.failures < solvability.trials - high:
        return Rejection(Reason.always_solved, detail)
    return None


def lift(tasks: Iterable[Task], probes: Mapping[str, Probe]) -> Lift:
    """Failure rates per pattern against those of the tasks without a pattern (the control)."""
    groups: dict[str | None, list[Probe]] = {None: []}
    for task in tasks:
        groups.setdefault(task.origin.pattern, []).append(probes[task.id])
    control = _failure_rate(groups[None])
    void = sum((Counter(probed.void) for probed in probes.values()), Counter[str]())
    counted = sum(probed.successes + probed.failures for probed in probes.values())
    return Lift(
        patterns={pattern: _compare(group, control) for pattern, group in groups.items() if pattern is not None},
        episodes=counted + void.total(),
        void=dict(void),
    )


def _failure_rate(group: Sequence[Probe]) -> float | None:
    failures = sum(probed.failures for probed in group)
    episodes = failures + sum(probed.successes for probed in group)
    return failures / episodes if episodes else None


def _compare(group: Sequence[Probe], control: float | None) -> PatternLift:
    rate = _failure_rate(group)
    return PatternLift(
        tasks=len(group),
        episodes=sum(probed.successes + probed.failures for probed in group),
        failure_rate=rate,
        control_failure_rate=control,
        lift=rate / control if rate is not None and control else None,
    )
