"""The result of an experiment in figures: what `metrics.json`, `scores.json` and `curve.json` of the report say.

    report = Report(name, spec, collect(inputs, spec.iterations))
    write_json(folder / "metrics.json", report.metrics())

The last iteration is compared with iteration 0, whether or not an iteration between them did better: choosing the
best afterwards would favour noise. `sentinel.evaluation.page` renders the same figures for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sentinel.evaluation.breakdown import Row, breakdown
from sentinel.evaluation.collect import Iteration
from sentinel.evaluation.fates import Fate
from sentinel.evaluation.intervals import Interval
from sentinel.evaluation.metrics import Estimate, Floors, PassHat, deltas
from sentinel.evaluation.quotas import no_tasks, shown
from sentinel.records import SCHEMA_VERSION, Pattern
from sentinel.spec.models import ExperimentSpec

Document = dict[str, Any]
"""A JSON object."""


def _estimate(figure: Estimate | Interval | None) -> Document | None:
    return {end: round(getattr(figure, end), 6) for end in Interval._fields} if figure else None


@dataclass(frozen=True)
class Report:
    """An experiment's iterations, and what follows from them."""

    name: str
    """Name of the experiment."""
    spec: ExperimentSpec
    history: list[Iteration]
    """Iteration 0 (the starting policy) to N."""

    @property
    def first(self) -> Iteration:
        """The starting policy."""
        return self.history[0]

    @property
    def last(self) -> Iteration:
        """The final policy."""
        return self.history[-1]

    @property
    def k(self) -> int:
        """The k of the headline: the smallest that was measured, normally 1."""
        return min(self.spec.evaluator.k)

    @property
    def floors(self) -> Floors | None:
        """Success without any skill on the same tasks; measured once, in iteration 0."""
        return self.first.metrics.floors

    @property
    def voids(self) -> int:
        """Void evaluation episodes of all iterations."""
        return sum(iteration.metrics.void for iteration in self.history)

    @property
    def rollouts(self) -> int:
        """Episodes played outside evaluation, in all iterations."""
        return sum(iteration.rollouts.total for iteration in self.history)

    def pass_hat(self, iteration: Iteration, k: int) -> PassHat | None:
        """Pass^k of an iteration's policy."""
        return iteration.metrics.pass_hat.get(str(k))

    @cached_property
    def deltas(self) -> dict[int, Estimate | None]:
        """Paired difference of Pass^k for every k: last iteration minus iteration 0."""
        found = deltas(self.last.trials, self.first.trials, self.spec.evaluator)
        return {int(k): estimate for k, estimate in found.items()}

    @cached_property
    def breakdown(self) -> dict[str, list[Row]]:
        """Axis -> rows: the last iteration, paired with iteration 0."""
        return breakdown(self.last.trials, self.first.trials, self.spec.evaluator.confidence)

    @cached_property
    def environment(self) -> str:
        """One line: which held-out set, whose world, which user simulator."""
        return "; ".join((_held_out(self.spec, self.last.metrics.tasks), _world(self.spec), _user(self.spec)))

    def metrics(self) -> Document:
        """The document `metrics.json`: every figure of the report."""
        delta = self.deltas[self.k]
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "environment": self.environment,
            "task_set": self.last.metrics.task_set.model_dump(mode="json"),
            "iterations": [self._iteration(iteration) for iteration in self.history],
            "paired_delta": {f"pass_hat_{k}": _estimate(found) for k, found in self.deltas.items()},
            "floors": self.floors.model_dump() if self.floors else None,
            "breakdown": {axis: {row.group: _group(row) for row in rows} for axis, rows in self.breakdown.items()},
            "confidence": self.spec.evaluator.confidence,
            f"pass_hat_{self.k}_first": _value(self.pass_hat(self.first, self.k)),
            f"pass_hat_{self.k}_last": _value(self.pass_hat(self.last, self.k)),
            f"pass_hat_{self.k}_gain": delta.value if delta else None,
            "rollouts": self.rollouts,
            "voids": self.voids,
        }

    def scores(self) -> Document:
        """The document `scores.json`: the headline in one row, for `dvc metrics show` and `diff`."""
        first, last = (_value(self.pass_hat(iteration, self.k)) for iteration in (self.first, self.last))
        hardest = max(self.spec.evaluator.k)
        gain = _estimate(self.deltas[self.k]) or dict.fromkeys(Interval._fields)
        return {
            f"pass_hat_{hardest}_last": _value(self.pass_hat(self.last, hardest)),
            f"pass_hat_{self.k}_first": first,
            f"pass_hat_{self.k}_last": last,
            **{f"pass_hat_{self.k}_gain_{end}": gain[end] for end in Interval._fields},
            "rollouts": self.rollouts,
            "voids": self.voids,
        }

    def curve(self) -> list[Document]:
        """The rows of `curve.json` for `dvc plots`: one per iteration, with the ends of the headline's interval."""
        return [self._point(iteration) for iteration in self.history]

    def _point(self, iteration: Iteration) -> Document:
        figures = {k: self.pass_hat(iteration, k) for k in self.spec.evaluator.k}
        values = {f"pass_hat_{k}": figure.value if figure else None for k, figure in figures.items()}
        headline = figures[self.k]
        ends = {"low": headline.low, "high": headline.high} if headline else {}
        return {"iteration": iteration.number, **values, **ends}

    @property
    def _most(self) -> int:
        """Patterns that may get tasks."""
        controller = self.spec.controller
        return 0 if controller.type == "none" else controller.max_patterns

    def _iteration(self, iteration: Iteration) -> Document:
        metrics = iteration.metrics
        return {
            "iteration": iteration.number,
            **{f"pass_hat_{k}": _estimate(self.pass_hat(iteration, k)) for k in self.spec.evaluator.k},
            "tasks": metrics.tasks,
            "trials": metrics.trials,
            "voids": metrics.void,
            "voids_by_reason": metrics.voids,
            "rollouts": iteration.rollouts.total,
            "rollouts_by_use": iteration.rollouts._asdict(),
            "patterns": [_pattern(each, iteration, self._most) for each in shown(iteration)],
            "failures_by_party": iteration.parties,
            "failures_by_kind": iteration.mistakes,
            "candidates": iteration.candidates.model_dump(exclude={"schema_version"}),
        }


def _pattern(pattern: Pattern, iteration: Iteration, most: int) -> Document:
    return {
        "id": pattern.id,
        "description": pattern.description,
        "status": pattern.status.value,
        "support": pattern.support,
        "failures": pattern.contrast.failures,
        "episodes": pattern.contrast.episodes,
        "tasks_ordered": iteration.ordered.get(pattern.id, 0),
        "no_tasks": no_tasks(pattern, iteration, most),
        "tasks_solved": {
            use: found._asdict() for use, found in iteration.fates.get(pattern.id, Fate())._asdict().items()
        },
    }


def _value(figure: PassHat | None) -> float | None:
    return figure.value if figure else None


def _group(row: Row) -> Document:
    figures = {"value": _estimate(row.value), "baseline": _estimate(row.baseline), "delta": _estimate(row.delta)}
    return {"tasks": row.tasks, "voids": row.voids, **figures}


def _held_out(spec: ExperimentSpec, tasks: int) -> str:
    names = {
        "tau2-base": "tau2-bench retail, the whole set",
        "tau2-test": "tau2-bench retail, the test split",
        "synthetic": "Synthetic retail tasks",
    }
    name = names[spec.seed_tasks.evaluate.set]
    return f"{name} ({tasks} held-out tasks × {spec.evaluator.trials} trials)"


def _world(spec: ExperimentSpec) -> str:
    world = spec.environment.world
    kind = (
        "tau2's retail database" if world.type == "tau2" else f"a synthetic world behind tau2's tools ({world.ids} ids)"
    )
    return f"{kind}, {spec.environment.observation} observations, at most {spec.environment.max_turns} turns"


def _user(spec: ExperimentSpec) -> str:
    user = spec.environment.user
    return (
        "scripted user"
        if user.type == "scripted"
        else f"user played by {user.model} (temperature {user.temperature:g})"
    )
