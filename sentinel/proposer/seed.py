"""The tasks that exist before the loop starts: held-out, dev, general and demonstration tasks, from one distribution.

Every set holds the natural mix of conditions in equal proportion (largest remainder), each task drawn from a seed of
its own. The held-out sets come first; whatever is drawn later must share neither people nor solutions with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sentinel.errors import StageError
from sentinel.proposer.conditions import Condition, conditions
from sentinel.proposer.gates import Bench, first_rejection
from sentinel.proposer.leakage import signed
from sentinel.proposer.trajectory import Scenes, generate
from sentinel.records import Origin, OriginKind, Task
from sentinel.seeds import generator

REDRAWS = 20
"""Candidates drawn for one place before its condition counts as impossible in this world."""


def natural_mix(count: int) -> list[Condition]:
    """`count` conditions in the proportions of the natural mix, by largest remainder."""
    total = sum(condition.weight for condition in conditions())
    shares = [count * condition.weight / total for condition in conditions()]
    places = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda n: (places[n] - shares[n], n))
    for n in by_remainder[: count - sum(places)]:
        places[n] += 1
    return [condition for condition, n in zip(conditions(), places, strict=True) for _ in range(n)]


def draw(name: str, count: int, scenes: Scenes, bench: Bench, seed: int, tick: Callable[[], None]) -> Iterator[Task]:
    """`count` different tasks of the set `name`, mixed over the conditions; each joins the bench's archive."""
    mix = natural_mix(count)
    for n, place in enumerate(generator(seed, "seed", name, "order").permutation(count)):
        yield _task(mix[int(place)], f"{name}-{n:04d}", scenes, bench, seed)
        tick()


def _task(condition: Condition, task_id: str, scenes: Scenes, bench: Bench, seed: int) -> Task:
    rng = generator(seed, "seed", task_id)
    for _ in range(REDRAWS):
        task = generate(condition, scenes, rng, task_id=task_id, origin=Origin(kind=OriginKind.general))
        if task and first_rejection(task, bench) is None:
            task = signed(task, bench.world)
            bench.archive.add(task.signature)
            return task
    raise StageError(
        f"no acceptable task of condition '{condition.condition}' in {REDRAWS} draws: the world is too small for it "
        "(environment.world), or for as many different tasks (seed_tasks)"
    )
