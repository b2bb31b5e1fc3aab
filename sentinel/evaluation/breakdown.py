"""Where a policy gained and lost: Pass^1 by write tool, family, skill and condition, paired with a baseline.

    for row in breakdown(last, first)["tool"]: ...

Groups are small (often 4 to 8 tasks) and many, so some interval will exclude zero by chance: read them as pointers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from sentinel.evaluation.intervals import CONFIDENCE, Interval, mean_interval, paired_difference
from sentinel.evaluation.passk import pass_hat
from sentinel.records import Trial

NO_WRITE = "no write"
"""Group of the tasks whose gold answer changes nothing: refusals, transfers and questions."""

KNOBS = ("family", "skill", "condition")
"""Knobs of generated tasks by which results are broken down; benchmark tasks have none of them."""


class Row(NamedTuple):
    """One group of tasks."""

    group: str
    tasks: int
    """Tasks with at least one scored trial."""
    voids: int
    value: Interval
    """Pass^1 of the policy."""
    baseline: Interval | None
    """Pass^1 of the baseline; `None` without one."""
    delta: Interval | None
    """Paired difference over the tasks scored in both."""


def _tools(trial: Trial) -> Iterable[str]:
    """A task with several write tools counts in the group of each."""
    return dict.fromkeys(trial.tools) or (NO_WRITE,)


def _knob(name: str) -> Callable[[Trial], Iterable[str]]:
    return lambda trial: (str(trial.knobs[name]),) if name in trial.knobs else ()


AXES: Mapping[str, Callable[[Trial], Iterable[str]]] = {"tool": _tools} | {name: _knob(name) for name in KNOBS}
"""Axis -> the groups a trial belongs to."""


def _groups(trials: Iterable[Trial], axis: Callable[[Trial], Iterable[str]]) -> dict[str, list[Trial]]:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        for group in axis(trial):
            groups.setdefault(group, []).append(trial)
    return dict(sorted(groups.items()))


def _row(group: str, trials: Sequence[Trial], before: Mapping[str, float], confidence: float) -> Row | None:
    scored = pass_hat(trials, 1).values
    value = mean_interval(list(scored.values()), confidence)
    if value is None:
        return None
    paired = [before[task] for task in scored if task in before]
    voids = sum(trial.void_reason is not None for trial in trials)
    return Row(
        group,
        len(scored),
        voids,
        value,
        baseline=mean_interval(paired, confidence),
        delta=paired_difference(scored, before, confidence),
    )


def breakdown(
    trials: Sequence[Trial], baseline: Sequence[Trial] = (), confidence: float = CONFIDENCE
) -> dict[str, list[Row]]:
    """Rows per axis (`tool`, `family`, `skill`, `condition`), sorted by group; without a scored trial, no row.

    `baseline` holds the trials of the policy to compare with, on the same tasks.
    """
    before = pass_hat(baseline, 1).values
    table: dict[str, list[Row]] = {}
    for axis, groups_of in AXES.items():
        rows = (_row(group, members, before, confidence) for group, members in _groups(trials, groups_of).items())
        table[axis] = [row for row in rows if row is not None]
    return table
