"""Which tasks the Solver trains on.

A share of the prompts comes from targeted tasks, weighted by how much a group of episodes can teach: `p (1 - p)` is
the variance of a binary reward, largest where the policy succeeds half of the time and zero where it always or never
does. The rest is drawn uniformly from the general tasks: training on failures alone forgets what the policy could do.

    curriculum = Curriculum(general, targeted, spec.curriculum, memory)
    curriculum.learn(probes)                    # what diagnosis and probes have shown is not thrown away
    curriculum.admit(new)
    prompts = curriculum.draw(16, generator(spec.seed, "train", iteration, step, "draw"))
    curriculum.observe(prompts[0].task, 3, 8)

A targeted task can rest, and rests of all kinds are reviewed now and then:

    waiting    the injection cap holds it back for the next iteration
    retired    solved too well to teach anything
    parked     never solved, and its condition is not solved better than when that was seen
    stalled    its condition is mostly failed, and training does not move it

A task is seen once or twice, far too little to know its p. So every task shrinks towards the rate of its condition,
which many tasks inform. A condition that was solved and is lost again takes all of its tasks into the targeted share,
the general ones too. Rules by size alone (the lowest rate first) chase what training cannot move: see
facts/tiny-policy.md §4 and §7; cap, burn-in, retirement with review: RODS, arXiv:2606.19047.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from sentinel.curriculum.memory import Attempted, Condition, Memory
from sentinel.descent import Probed, Use, condition_of
from sentinel.records import Task
from sentinel.spec.models import Curriculum as Settings

FLOOR = 0.05
"""Least weight of a living task (the most is 0.25): a task that never succeeded yet is still tried now and then."""
MOST = 0.25
"""Weight of the tasks of a condition that collapsed, whatever their rate."""


class Standing(StrEnum):
    """Of a targeted task."""

    living = "living"
    waiting = "waiting"
    retired = "retired"
    parked = "parked"
    stalled = "stalled"


class Prompt(NamedTuple):
    """A task, chosen."""

    task: Task
    use: Use
    estimate: float
    """Success rate that is expected of it."""


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


def _in_turn(tasks: Iterable[Task]) -> list[Task]:
    """Tasks by id, one pattern after the other in turn."""
    ordered = sorted(tasks, key=lambda task: (task.origin.pattern or "", task.id))
    groups = [list(group) for _, group in itertools.groupby(ordered, lambda task: task.origin.pattern)]
    return [task for round_ in itertools.zip_longest(*groups) for task in round_ if task]


class Curriculum:
    """Draws prompts and learns from their outcomes. Independent of the order in which the tasks are given."""

    def __init__(
        self,
        general: Iterable[Task],
        targeted: Iterable[Task],
        settings: Settings,
        memory: Memory | None = None,
    ) -> None:
        """`memory` is what an earlier curriculum over these tasks, the resting ones included, remembered."""
        self._general = sorted(general, key=lambda task: task.id)
        self._targeted = sorted(targeted, key=lambda task: task.id)
        self._settings = settings
        self._by_id = {task.id: task for task in [*self._general, *self._targeted]}
        if len(self._by_id) != len(self._general) + len(self._targeted):
            raise ValueError("two tasks of the curriculum have the same id")
        self._tasks: dict[str, Attempted] = {}
        self._conditions: dict[str, Condition] = {}
        self._waiting: dict[str, None] = {}
        self.restore(memory or Memory())

    def admit(self, new: Iterable[Task]) -> None:
        """Take in new targeted tasks, as many as the injection cap allows; the others wait, and come first then."""
        new = _in_turn(new)
        if known := [task.id for task in new if task.id in self._by_id]:
            raise ValueError(f"tasks of the curriculum already: {', '.join(known)}")
        queue = [*self._waiting, *(task.id for task in new)]
        room = int(self._settings.injection_cap * (len(self._general) + len(self._of(Standing.living))))
        self._waiting = dict.fromkeys(queue[room:])
        self._targeted = sorted([*self._targeted, *new], key=lambda task: task.id)
        self._by_id |= {task.id: task for task in new}

    def draw(self, n: int, rng: np.random.Generator) -> list[Prompt]:
        """Choose n tasks, targeted ones first; a task comes twice only where there are fewer tasks than prompts.

        Targeted prompts that find no living task go to general ones, and the other way round.
        """
        lost = set(self.collapsed())
        living = self._of(Standing.living) + [task for task in self._general if condition_of(task) in lost]
        resting = [task for task in self._targeted if self.standing(task) not in (Standing.living, Standing.waiting)]
        wanted = round(n * self._settings.targeted_share) if self._general else n
        review = min(int(rng.binomial(wanted, self._settings.review_share)), len(resting))
        focus = min(wanted - review, len(living)) if self._general else wanted - review
        drawn = self._prompts(_sample(living, focus, rng, [self._weight(task, lost) for task in living]), Use.targeted)
        drawn += self._prompts(_sample(resting, review, rng), Use.review)
        taken = {prompt.task.id for prompt in drawn}
        left = [task for task in self._general if task.id not in taken] or self._general or living or resting
        return drawn + self._prompts(_sample(left, n - len(drawn), rng), Use.general)

    def _prompts(self, tasks: Iterable[Task], use: Use) -> list[Prompt]:
        return [Prompt(task, use, self.rate(task)) for task in tasks]

    def learn(self, played: Iterable[Probed]) -> None:
        """Take in what was played beside training, by the diagnosis and by the probes."""
        for each in played:
            self._count(each.task, each.condition, each.successes, each.trials, trained=False)

    def observe(self, task: Task, successes: int, trials: int) -> None:
        """Take in the outcome of a group of training; void episodes are neither successes nor trials."""
        self._count(task.id, condition_of(task), successes, trials, trained=True)

    def _count(self, task_id: str, name: str, successes: int, trials: int, trained: bool) -> None:
        if not trials:
            return
        condition = self._conditions.get(name, Condition()).after(successes, trials, trained)
        condition = self._conditions[name] = condition.noted(self._settings.least_gain)
        own = self._tasks.get(task_id, Attempted()).after(successes, trials, trained)
        parked_at = None if own.successes else condition.rate
        self._tasks[task_id] = own.model_copy(update={"parked_at": parked_at})

    def rate(self, task: Task) -> float:
        """Estimated success rate of the policy on a task."""
        return self._tasks.get(task.id, Attempted()).estimate(self._condition(task).rate)

    def _condition(self, task: Task) -> Condition:
        return self._conditions.get(condition_of(task), Condition())

    def standing(self, task: Task) -> Standing:
        """Whether a targeted task is drawn for what it teaches, or why not."""
        settings, own, condition = self._settings, self._tasks.get(task.id, Attempted()), self._condition(task)
        if task.id in self._waiting:
            return Standing.waiting
        if condition.collapsed(settings.solved, settings.collapse):
            return Standing.living
        if own.groups >= settings.burn_in and self.rate(task) > settings.retire_above:
            return Standing.retired
        if own.parked_at is not None and condition.rate < own.parked_at + settings.least_gain:
            return Standing.parked
        return Standing.stalled if condition.stalled(settings.patience) else Standing.living

    def collapsed(self) -> tuple[str, ...]:
        """Conditions that were solved and are lost again, sorted."""
        limits = self._settings.solved, self._settings.collapse
        return tuple(sorted(name for name, known in self._conditions.items() if known.collapsed(*limits)))

    def pool(self) -> list[Task]:
        """The tasks of the next diagnosis: all general ones and the targeted ones that do not rest."""
        return [*self._general, *self._of(Standing.living)]

    def resting(self) -> list[Task]:
        """The targeted tasks that rest: the next iteration's curriculum needs them too."""
        return [task for task in self._targeted if self.standing(task) is not Standing.living]

    def memory(self) -> Memory:
        """Everything learnt from outcomes."""
        return Memory(
            tasks=dict(sorted(self._tasks.items())),
            conditions=dict(sorted(self._conditions.items())),
            waiting=tuple(self._waiting),
        )

    def restore(self, memory: Memory) -> None:
        """Take back what `memory()` returned."""
        self._tasks, self._conditions = dict(memory.tasks), dict(memory.conditions)
        self._waiting = dict.fromkeys(memory.waiting)

    def _of(self, standing: Standing) -> list[Task]:
        return [task for task in self._targeted if self.standing(task) is standing]

    def _weight(self, task: Task, lost: set[str]) -> float:
        rate = self.rate(task)
        return MOST if condition_of(task) in lost else max(rate * (1.0 - rate), FLOOR)
