"""The figures of one evaluation, as the evaluate stage writes them to `metrics.json`.

write_json(folder / "metrics.json", evaluate_metrics(trials, spec.evaluator, task_set(tasks), floors=Floors(...)))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sentinel.evaluation.breakdown import breakdown
from sentinel.evaluation.intervals import Interval, mean_interval, paired_difference
from sentinel.evaluation.passk import pass_hat
from sentinel.records import Outcome, Part, Record, TaskSet, Trial
from sentinel.spec.models import Evaluator


class Estimate(Part):
    """A figure with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> Estimate:
        """The interval as a record, rounded to six decimals so that it is the same on every machine."""
        return cls(**{end: round(value, 6) for end, value in interval._asdict().items()})


class PassHat(Estimate):
    """Pass^k over the tasks that have k scored trials."""

    tasks: int
    excluded: int
    """Tasks with fewer than k scored trials."""


class Group(Estimate):
    """Pass^1 of one group of tasks."""

    tasks: int


class Floors(Part):
    """Pass^1 that needs no skill, on the same tasks."""

    do_nothing: float
    """Success of an agent that ends the conversation at once."""
    refuse_always: float
    """Success of an agent that declines every request."""


class EvaluationMetrics(Record):
    """What one evaluation says of a policy."""

    task_set: TaskSet
    tasks: int
    trials: int
    """Episodes played, void ones included."""
    voids: dict[str, int]
    """Reason -> void episodes."""
    confidence: float
    pass_hat: dict[str, PassHat | None]
    """`"1"`, `"2"`, … -> Pass^k; `None` where no task has k scored trials."""
    paired_delta: dict[str, Estimate | None] | None = None
    """Pass^k minus that of the baseline, paired by task; `None` without a baseline."""
    by_tool: dict[str, Group]
    by_condition: dict[str, Group]
    floors: Floors | None = None

    @property
    def void(self) -> int:
        """Void episodes, whatever the reason."""
        return sum(self.voids.values())


def pass_hat_estimate(trials: Sequence[Trial], k: int, confidence: float) -> PassHat | None:
    """Pass^k with its task-clustered interval."""
    scores = pass_hat(trials, k)
    interval = mean_interval(list(scores.values.values()), confidence)
    if interval is None:
        return None
    return PassHat(**Estimate.of(interval).model_dump(), tasks=len(scores.values), excluded=scores.excluded)


def deltas(trials: Sequence[Trial], baseline: Sequence[Trial], evaluator: Evaluator) -> dict[str, Estimate | None]:
    """Paired difference of every Pass^k, `trials` minus `baseline`; `None` where no task is scored in both."""
    found = {
        str(k): paired_difference(pass_hat(trials, k).values, pass_hat(baseline, k).values, evaluator.confidence)
        for k in evaluator.k
    }
    return {k: Estimate.of(interval) if interval else None for k, interval in found.items()}


def evaluate_metrics(
    trials: Sequence[Trial],
    evaluator: Evaluator,
    task_set: TaskSet,
    baseline: Sequence[Trial] | None = None,
    floors: Floors | None = None,
) -> EvaluationMetrics:
    """The figures of an evaluation; with `baseline` (another policy's trials on the same tasks) also the difference."""
    level = evaluator.confidence
    tables = breakdown(trials, confidence=level)
    groups = {
        axis: {row.group: Group(**Estimate.of(row.value).model_dump(), tasks=row.tasks) for row in tables[axis]}
        for axis in ("tool", "condition")
    }
    return EvaluationMetrics(
        task_set=task_set,
        tasks=len({trial.task for trial in trials}),
        trials=len(trials),
        voids=void_reasons(trials),
        confidence=level,
        pass_hat={str(k): pass_hat_estimate(trials, k, level) for k in evaluator.k},
        paired_delta=None if baseline is None else deltas(trials, baseline, evaluator),
        by_tool=groups["tool"],
        by_condition=groups["condition"],
        floors=floors,
    )


def void_reasons(trials: Sequence[Trial]) -> dict[str, int]:
    """Void episodes by reason, sorted; an unexplained one counts as `unknown`."""
    voids = (trial for trial in trials if trial.outcome is Outcome.void)
    return dict(sorted(Counter(str(trial.void_reason or "unknown") for trial in voids).items()))
