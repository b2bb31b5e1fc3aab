"""The tasks that exist before the loop starts: held-out, dev, general and demonstration tasks, from one distribution.

Every set holds the natural mix of conditions in equal proportion (largest remainder), each task drawn from a seed of
its own. The held-out sets come first; whatever is drawn later must share neither people nor solutions with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from sentinel.errors import StageError
from sentinel.proposer.gates import Bench, first_rejection
from sentinel.proposer.makers import Maker, Named
from sentinel.records import Origin, OriginKind, Task
from sentinel.seeds import generator

K = TypeVar("K", bound=Named)
REDRAWS = 20
"""Candidates drawn for one place before its condition counts as impossible in this world."""


def natural_mix(count: int, kinds: Sequence[K]) -> list[K]:
    """`count` kinds in the proportions of the natural mix, by largest remainder."""
    total = sum(kind.weight for kind in kinds)
    shares = [count * kind.weight / total for kind in kinds]
    places = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda n: (places[n] - shares[n], n))
    for n in by_remainder[: count - sum(places)]:
        places[n] += 1
    return [kind for kind, n in zip(kinds, places, strict=True) for _ in range(n)]


def draw(name: str, count: int, maker: Maker, bench: Bench, seed: int, tick: Callable[[], None]) -> Iterator[Task]:
    """`count` different tasks of the set `name`, mixed over the conditions; each joins the bench's archive."""
    mix = natural_mix(count, maker.kinds)
    for n, place in enumerate(generator(seed, "seed", name, "order").permutation(count)):
        yield _task(mix[int(place)], f"{name}-{n:04d}", maker, bench, seed)
        tick()


def _task(kind: Named, task_id: str, maker: Maker, bench: Bench, seed: int) -> Task:
    rng = generator(seed, "seed", task_id)
    for _ in range(REDRAWS):
        task = maker.make(kind, rng, task_id=task_id, origin=Origin(kind=OriginKind.general))
        if task and first_rejection(task, bench) is None:
            task = task.model_copy(update={"signature": bench.case(task).signature})
            bench.archive.add(task.signature)
            return task
    raise StageError(
        f"no acceptable task of condition '{kind.condition}' in {REDRAWS} draws: the world is too small for it "
        "(environment.world), or for as many different tasks (seed_tasks)"
    )
