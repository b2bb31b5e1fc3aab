"""Two finished experiments on the same held-out tasks: Pass^k of both, and the difference paired by task.

    compare(read_arm(general, runs), read_arm(targeted, runs)).summary()

Both must have been evaluated on the same tasks, byte for byte; what else differs in how they were measured is noted.
The interval covers the draw of the tasks and the sampling within trials, **not the training seed**: one training run of
each arm is compared, and others may land elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sentinel.artifacts import REBUILD, require
from sentinel.errors import ArtifactError, SentinelError
from sentinel.evaluation.collect import read_evaluation
from sentinel.evaluation.intervals import Interval, paired_difference
from sentinel.evaluation.metrics import Estimate, PassHat, pass_hat_estimate, void_reasons
from sentinel.evaluation.passk import pass_hat
from sentinel.records import Part, TaskSet, Trial
from sentinel.spec.models import Experiment

MEASURE = ("environment", "evaluator")
"""Sections that say how an arm was measured."""


class Arm(NamedTuple):
    """A finished experiment as far as it is compared."""

    experiment: Experiment
    iteration: int
    trials: list[Trial]
    task_set: TaskSet
    """Its held-out tasks."""
    rollouts: int
    """Episodes played outside evaluation, in all iterations."""

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment.metadata.name


class Side(Part):
    """One of the two, in figures."""

    name: str
    iteration: int
    tasks: int
    void: int
    rollouts: int


class Row(Part):
    """Pass^k of both, each over its own scored tasks, and the difference over the tasks scored in both."""

    k: int
    first: PassHat | None
    second: PassHat | None
    difference: Estimate | None
    """Second minus first."""


class Comparison(Part):
    """What is known of the difference between two experiments."""

    task_set: TaskSet
    first: Side
    second: Side
    confidence: float
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def summary(self) -> str:
        """A table for people, in percent and points."""
        sides = (self.first, self.second)
        head = f"{self.second.name} minus {self.first.name}, paired by task, {100 * self.confidence:g}% intervals"
        names = [f"{side.name} ({side.iteration})" for side in sides]
        width = max(18, *map(len, names))
        lines = [head, "", "  ".join(["k", *(f"{name:>{width}}" for name in names), f"{'difference':>20}"])]
        for row in self.rows:
            cells = (
                f"{cell(row.first):>{width}}",
                f"{cell(row.second):>{width}}",
                f"{cell(row.difference, '+'):>20}",
            )
            lines.append("  ".join([str(row.k), *cells]))
        counted = (f"{side.name}: {side.tasks} tasks, {side.void} void, {side.rollouts:,} rollouts" for side in sides)
        return "\n".join([*lines, "", self.task_set.label, *counted, *self.notes])


def cell(figure: Estimate | None, sign: str = "") -> str:
    """A figure with its interval, in percent or points."""
    if figure is None:
        return "–"
    value, low, high = (f"{100 * getattr(figure, end):{sign}.1f}" for end in Interval._fields)
    return f"{value} [{low}, {high}]"


def read_arm(experiment: Experiment, runs: Path, iteration: int | None = None) -> Arm:
    """The evaluation of an experiment's policy, by default its last.

    Args:
        experiment: what was run.
        runs: the folder of all runs.
        iteration: which policy; 0 is the one it started from.

    Raises:
        ArtifactError: the experiment has not run to its end here.
        SentinelError: it has no such iteration.
    """
    name, base, last = experiment.metadata.name, runs / "bases" / experiment.spec.base.name, experiment.spec.iterations
    number = last if iteration is None else iteration
    if not 0 <= number <= last:
        raise SentinelError(f"{name}: iteration {number} is not one of its 0 to {last}")
    report = runs / name / "report" / "metrics.json"
    try:
        rollouts = int(json.loads(require(report).read_text(encoding="utf-8"))["rollouts"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        what = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(report, f"not a report's metrics: {what}", hint=REBUILD) from None
    folder = runs / name / f"{number:02d}" if number else base
    trials, metrics = read_evaluation(folder / "evaluate")
    return Arm(experiment, number, trials, metrics.task_set, rollouts)


def compare(first: Arm, second: Arm) -> Comparison:
    """Pass^k of both for every k that both measured, and the paired differences.

    Raises:
        SentinelError: they were not evaluated on the same tasks, or have no k in common.
    """
    if first.task_set != second.task_set:
        bases = " and ".join(arm.experiment.spec.base.name for arm in (first, second))
        raise SentinelError(
            f"{first.name} and {second.name} were evaluated on different tasks (bases {bases}), which cannot be "
            "paired; arms that are to be compared name the same base"
        )
    ks = sorted(set(first.experiment.spec.evaluator.k) & set(second.experiment.spec.evaluator.k))
    if not ks:
        raise SentinelError(f"{first.name} and {second.name} have no k of Pass^k in common: see spec.evaluator.k")
    level = max(arm.experiment.spec.evaluator.confidence for arm in (first, second))
    return Comparison(
        task_set=first.task_set,
        first=_side(first),
        second=_side(second),
        confidence=level,
        rows=tuple(_row(first, second, k, level) for k in ks),
        notes=tuple(_notes(first, second)),
    )


def _side(arm: Arm) -> Side:
    return Side(
        name=arm.name,
        iteration=arm.iteration,
        tasks=len({trial.task for trial in arm.trials}),
        void=sum(void_reasons(arm.trials).values()),
        rollouts=arm.rollouts,
    )


def _row(first: Arm, second: Arm, k: int, level: float) -> Row:
    difference = paired_difference(pass_hat(second.trials, k).values, pass_hat(first.trials, k).values, level)
    before, after = (pass_hat_estimate(arm.trials, k, level) for arm in (first, second))
    return Row(k=k, first=before, second=after, difference=Estimate.of(difference) if difference else None)


def _notes(first: Arm, second: Arm) -> Iterator[str]:
    specs = (first.experiment.spec, second.experiment.spec)
    for section in MEASURE:
        if len({getattr(spec, section).model_dump_json() for spec in specs}) > 1:
            yield f"They differ in spec.{section}: part of the difference may be how they were measured."
    if first.rollouts != second.rollouts:
        yield "They did not spend the same number of rollouts."
    seeds = " and ".join(str(spec.seed) for spec in specs)
    yield f"One training run of each (seeds {seeds}): the intervals do not cover what another seed would give."
