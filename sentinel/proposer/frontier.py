"""The edge of the policy's ability: which candidates it solves sometimes, measured by playing them.

    probes = probe(candidates, 4, (7, "propose", 1), play)    # {task id: Probe(successes=1, failures=3, void={})}
    judge(probes["01-explore-000"], Solvability(trials=4, band=(1, 3)))    # None: kept
    lift(candidates, probes).patterns["f3a9"].lift    # 1.8: they fail 1.8 times as often as control tasks

A group that always succeeds or always fails teaches GRPO nothing (its advantages are zero). Tasks that are never
solved are parked, not condemned. Lift is taken over all probed candidates, before selection makes patterns look alike.
Four episodes are a rough measure; a task near the band's edge may be kept in one iteration and not in the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentinel.env.traits import in_play
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Lift, Outcome, PatternLift, Task, Trajectory
from sentinel.rollout.episode import Assignment
from sentinel.rollout.pool import assign
from sentinel.seeds import SeedPart, generator
from sentinel.spec.models import Solvability

MATCHED = 4
"""Control tasks, at least, for a comparison."""
RESAMPLES = 2000
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


Lacks = Callable[[Task], bool]
"""Whether a task lacks what a pattern's tasks must have."""


def lift(tasks: Iterable[Task], probes: Mapping[str, Probe], lacks: Mapping[str, Lacks] = MappingProxyType({})) -> Lift:
    """Failure rates per pattern against those of matched tasks without a pattern (the control).

    Args:
        tasks: all candidates that were probed, before any selection.
        probes: what became of their episodes, by task id.
        lacks: for a pattern, whether a task is free of its condition; a task of which nothing is known counts as free.
    """
    groups: dict[str | None, list[Task]] = {None: []}
    for task in tasks:
        groups.setdefault(task.origin.pattern, []).append(task)
    aimed = [task for pattern, group in groups.items() if pattern is not None for task in group]
    void = sum((Counter(probed.void) for probed in probes.values()), Counter[str]())
    counted = sum(probed.successes + probed.failures for probed in probes.values())
    return Lift(
        patterns={
            pattern: _compare(pattern, group, _matched(group, groups[None], lacks.get(pattern)), probes)
            for pattern, group in groups.items()
            if pattern is not None
        },
        together=_compare("", aimed, groups[None], probes) if aimed else None,
        episodes=counted + void.total(),
        void=dict(void),
    )


def _matched(group: Sequence[Task], explored: Sequence[Task], lacks: Lacks | None) -> Sequence[Task]:
    """Explore tasks that need a tool of the group's and lack its condition; fewer than `MATCHED`: the next best."""
    tools = frozenset[str]().union(*map(in_play, group))
    free = [task for task in explored if lacks is None or lacks(task)]
    alike = [task for task in free if in_play(task) & tools or not (tools or in_play(task))]
    return next((pool for pool in (alike, free) if len(pool) >= MATCHED), explored)


class _Counts(NamedTuple):
    """Failures and episodes of each task."""

    failures: NDArray[np.float64]
    episodes: NDArray[np.float64]

    def rate(self) -> float | None:
        """Share of failures; `None` where no episode counts."""
        return float(self.failures.sum() / self.episodes.sum()) if self.episodes.sum() else None

    def resampled(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Failure rates of bootstrap samples of tasks, shrunk by half a failure so that none is zero."""
        chosen = rng.integers(len(self.failures), size=(RESAMPLES, len(self.failures)))
        rates: NDArray[np.float64] = (self.failures[chosen].sum(1) + 0.5) / (self.episodes[chosen].sum(1) + 1.0)
        return rates


def _counts(tasks: Sequence[Task], probes: Mapping[str, Probe]) -> _Counts:
    played = [probes[task.id] for task in tasks]
    failures = np.array([probed.failures for probed in played], dtype=np.float64)
    return _Counts(failures, failures + np.array([probed.successes for probed in played], dtype=np.float64))


def _compare(pattern: str, group: Sequence[Task], control: Sequence[Task], probes: Mapping[str, Probe]) -> PatternLift:
    own, other = _counts(group, probes), _counts(control, probes)
    rate, base = own.rate(), other.rate()
    known = rate is not None and base
    interval = None
    if known:
        rng = generator("lift", pattern, len(group), len(control))
        low, high = np.quantile(own.resampled(rng) / other.resampled(rng), (0.025, 0.975))
        interval = (round(float(low), 4), round(float(high), 4))
    return PatternLift(
        tasks=len(group),
        episodes=int(own.episodes.sum()),
        failure_rate=rate,
        control_failure_rate=base,
        lift=rate / base if rate is not None and base else None,
        interval=interval,
        control_tasks=len(control),
    )
