"""Which tasks the Solver trains on.

A share of the prompts comes from targeted tasks, weighted by how much a group of episodes can teach: `p (1 - p)` is
the variance of a binary reward, largest where the policy succeeds half of the time and zero where it always or never
does. The rest is drawn uniformly from the general tasks: training on failures alone forgets what the policy could do.

    curriculum = Curriculum(general, targeted, spec.curriculum)
    tasks = curriculum.draw(16, generator(spec.seed, "train", iteration, step, "draw"))
    curriculum.observe(task.id, successes=3, trials=8)

A task is seen once or twice, far too little to know its p. So every task shrinks towards the mean of its condition
(`knobs["condition"]`), which many tasks inform, and old counts fade, because the policy changes as it learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sentinel.records import Json, Task
from sentinel.spec.models import Curriculum as Settings

PRIOR = 8.0
"""Pseudo-episodes of the estimate above: a condition starts at one half, a task at its condition's mean."""
FADE = 0.9
"""What a count is worth after the next group of the same task or condition."""
FLOOR = 0.05
"""Least weight of a living task (the most is 0.25): a task that never succeeded yet is still tried now and then."""
REVIEW_SHARE = 0.05
"""Chance of a targeted prompt to go to a retired task, so that forgetting is noticed."""

Count = tuple[float, float]
"""Faded successes and trials."""


def _condition(task: Task) -> str:
    return str(task.knobs.get("condition", ""))


def _add(counts: dict[str, Count], key: str, successes: int, trials: int) -> None:
    old_successes, old_trials = counts.get(key, (0.0, 0.0))
    counts[key] = (FADE * old_successes + successes, FADE * old_trials + trials)


def _rate(count: Count, prior: float) -> float:
    successes, trials = count
    return (successes + PRIOR * prior) / (trials + PRIOR)


def _sample(
    tasks: Sequence[Task], n: int, rng: np.random.Generator, weights: Sequence[float] | None = None
) -> list[Task]:
    """Draw without replacement; beyond the number of tasks, start over."""
    chosen: list[Task] = []
    shares = None if weights is None else np.array(weights) / np.sum(weights)
    while tasks and len(chosen) < n:
        size = min(n - len(chosen), len(tasks))
        chosen += [tasks[index] for index in rng.choice(len(tasks), size=size, replace=False, p=shares)]
    return chosen


class Curriculum:
    """Draws prompts and learns from their outcomes. Independent of the order in which the tasks are given."""

    def __init__(
        self,
        general: Iterable[Task],
        targeted: Iterable[Task],
        settings: Settings,
        state: Mapping[str, Json] | None = None,
    ) -> None:
        """`state` is what `state()` of an earlier curriculum over the same tasks returned."""
        self._general = sorted(general, key=lambda task: task.id)
        self._targeted = sorted(targeted, key=lambda task: task.id)
        self._settings = settings
        self._by_id = {task.id: task for task in [*self._general, *self._targeted]}
        if len(self._by_id) != len(self._general) + len(self._targeted):
            raise ValueError("two tasks of the curriculum have the same id")
        self._tasks: dict[str, Count] = {}
        self._conditions: dict[str, Count] = {}
        if state:
            self.restore(state)

    def draw(self, n: int, rng: np.random.Generator) -> list[Task]:
        """Choose n tasks, targeted ones first; a task comes twice only where there are fewer tasks than prompts.

        Targeted prompts that find no living task go to general ones, and the other way round.
        """
        living = [task for task in self._targeted if not self.retired(task)]
        resting = [task for task in self._targeted if self.retired(task)]
        wanted = round(n * self._settings.targeted_share) if self._general else n
        review = min(int(rng.binomial(wanted, REVIEW_SHARE)), len(resting))
        focus = min(wanted - review, len(living)) if self._general else wanted - review
        drawn = _sample(living, focus, rng, [self._weight(task) for task in living])
        drawn += _sample(resting, review, rng)
        return drawn + _sample(self._general or living or resting, n - len(drawn), rng)

    def observe(self, task_id: str, successes: int, trials: int) -> None:
        """Take in the outcome of a group; void episodes are neither successes nor trials."""
        if trials:
            _add(self._tasks, task_id, successes, trials)
            _add(self._conditions, _condition(self._by_id[task_id]), successes, trials)

    def rate(self, task: Task) -> float:
        """Estimated success rate of the policy on a task."""
        condition = _rate(self._conditions.get(_condition(task), (0.0, 0.0)), 0.5)
        return _rate(self._tasks.get(task.id, (0.0, 0.0)), condition)

    def retired(self, task: Task) -> bool:
        """Whether a targeted task is solved too well to teach anything."""
        return self.rate(task) > self._settings.retire_above

    def pool(self) -> list[Task]:
        """The tasks of the next iteration: all general ones and the targeted ones that are not retired."""
        return [*self._general, *(task for task in self._targeted if not self.retired(task))]

    def state(self) -> dict[str, Json]:
        """Everything learnt from outcomes, as plain JSON."""
        return {
            "tasks": {name: list(count) for name, count in sorted(self._tasks.items())},
            "conditions": {name: list(count) for name, count in sorted(self._conditions.items())},
        }

    def restore(self, state: Mapping[str, Json]) -> None:
        """Take back what `state()` returned."""
        self._tasks = {name: (pair[0], pair[1]) for name, pair in state["tasks"].items()}
        self._conditions = {name: (pair[0], pair[1]) for name, pair in state["conditions"].items()}

    def _weight(self, task: Task) -> float:
        rate = self.rate(task)
        return max(rate * (1.0 - rate), FLOOR)
