"""The arms of a study side by side: Pass^k of the last policies, averaged over the seeds, and paired differences.

    score({"general": [read_arm(one, runs), …], "targeted": […]}).summary()

A task's value in an arm is its mean over the arm's seeds, so the intervals cover the draw of the tasks and the sampling
within trials. What the training seed does is shown beside them, as the lowest and the highest run: with a handful of
seeds an interval over seeds would say little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentinel.errors import SentinelError
from sentinel.evaluation.compare import Arm, cell
from sentinel.evaluation.intervals import mean_interval, paired_difference
from sentinel.evaluation.metrics import Estimate, void_reasons
from sentinel.evaluation.passk import pass_hat
from sentinel.records import Part, TaskSet


class ArmScore(Part):
    """One arm for one k."""

    arm: str
    mean: Estimate | None
    """Over the tasks that were scored with every seed."""
    lowest: float | None
    highest: float | None
    """Pass^k of the worst and of the best seed."""
    difference: Estimate | None
    """To the first arm, paired by task; of the first arm itself none."""
    void: int
    rollouts: int
    """Both over all seeds."""


class StudyScores(Part):
    """Every arm, for the smallest and the largest k that all have measured."""

    task_set: TaskSet
    confidence: float
    seeds: int
    rows: dict[int, tuple[ArmScore, ...]]

    def summary(self) -> str:
        """A table for each k, in percent and points."""
        return "\n\n".join([*(self._table(k, rows) for k, rows in self.rows.items()), self.task_set.label])

    def _table(self, k: int, rows: Sequence[ArmScore]) -> str:
        width = max(len("arm"), *(len(row.arm) for row in rows))
        level = f"{100 * self.confidence:g}%"
        title = f"Pass^{k} of the last policies: mean of {self.seeds} seeds, {level} intervals over tasks"
        head = f"{'arm':<{width}}  {'mean':>18}  {'by seed':>12}  {f'minus {rows[0].arm}':>20}  void  rollouts"
        lines = [title, "", head]
        for row in rows:
            seeds = f"{100 * row.lowest:.1f}–{100 * row.highest:.1f}" if row.lowest is not None and row.highest else "–"
            figures = f"{cell(row.mean):>18}  {seeds:>12}  {cell(row.difference, '+'):>20}"
            lines.append(f"{row.arm:<{width}}  {figures}  {row.void:>4}  {row.rollouts:>8,}")
        return "\n".join(lines)


def score(arms: Mapping[str, Sequence[Arm]]) -> StudyScores:
    """Compare every arm with the first.

    Raises:
        SentinelError: they were not evaluated on the same tasks, or have no k in common.
    """
    runs = [run for members in arms.values() for run in members]
    if any(run.task_set != runs[0].task_set for run in runs):
        raise SentinelError("the arms were evaluated on different tasks, which cannot be paired: name the same base")
    ks = set.intersection(*(set(run.experiment.spec.evaluator.k) for run in runs))
    if not ks:
        raise SentinelError("the arms have no k of Pass^k in common: see spec.evaluator.k")
    level = max(run.experiment.spec.evaluator.confidence for run in runs)
    first = next(iter(arms))
    rows = {
        k: tuple(_row(name, arms[name], arms[first] if name != first else None, k, level) for name in arms)
        for k in sorted({min(ks), max(ks)})
    }
    return StudyScores(task_set=runs[0].task_set, confidence=level, seeds=max(map(len, arms.values())), rows=rows)


def _row(name: str, runs: Sequence[Arm], first: Sequence[Arm] | None, k: int, level: float) -> ArmScore:
    means = _means(runs, k)
    mean = mean_interval(list(means.values()), level)
    difference = paired_difference(means, _means(first, k), level) if first else None
    by_seed = [sum(values) / len(values) for run in runs if (values := pass_hat(run.trials, k).values.values())]
    return ArmScore(
        arm=name,
        mean=Estimate.of(mean) if mean else None,
        lowest=min(by_seed, default=None),
        highest=max(by_seed, default=None),
        difference=Estimate.of(difference) if difference else None,
        void=sum(count for run in runs for count in void_reasons(run.trials).values()),
        rollouts=sum(run.rollouts for run in runs),
    )


def _means(runs: Sequence[Arm], k: int) -> dict[str, float]:
    """Task -> its Pass^k, averaged over the runs; a task that is not scored in all of them is left out."""
    scored = [pass_hat(run.trials, k).values for run in runs]
    return {
        task: sum(values[task] for values in scored) / len(scored)
        for task in scored[0]
        if all(task in v for v in scored)
    }
