"""Does the Controller find planted faults, and how fast? In real and synthetic conversations, every label and party.

    python -m tests.bench.diagnosis --json

Faults are planted by `tests.bench.planting` and its neighbours, which know nothing of the Controller and state their
own truth. A label counts as found where kind and turn are right; labels that the conversation had before the fault are
none of the planter's and are left out. `decisive` is the confusion matrix of the decisive step: planted -> found. The
exit code is 1 where a figure is below its floor (without the shared file there are no real conversations).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from sentinel.controller.attribution import explain
from sentinel.controller.evidence import evidence
from sentinel.controller.steps import read_steps
from sentinel.env.overlay import World
from sentinel.env.stored import read_episodes
from sentinel.env.tau2 import benchmark_tasks
from sentinel.env.tau2_results import read_results
from sentinel.env.user_faults import identifiers
from sentinel.proposer.conditions import conditions
from sentinel.records import Ending, Failure, LabelKind, Outcome, Role
from tests.bench import agent_faults, other_faults
from tests.bench.planting import Base, Fault, Item, Planted, items_of, perform, plant, pure
from tests.unit.controller_cases import CONFIRM, DONE, empty_world, expert, made, play, reads

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "tau2-retail-toolorchestra.json"
PLANTERS = (*agent_faults.PLANTERS, *other_faults.PLANTERS)


def real_bases(path: Path) -> Iterator[Base]:
    """The successful conversations of a tau2 result file."""
    world = World.tau2()
    for stored in read_results(path, read_episodes(path).document, benchmark_tasks("tau2-base")):
        if stored.task is not None:
            items = [Item(m.role, m.content, m.tool_calls) for m in stored.messages if m.role is not Role.tool]
            base = Base(stored.task, items, world, real=True)
            if pure(base):
                yield base


FLOORS = {
    "trajectories": 2000,
    "real_share": 0.3,
    "macro_precision": 0.95,
    "macro_recall": 0.95,
    "attribution_accuracy": 0.97,
    "trajectories_per_second": 500,
}
"""Below one of them, the benchmark fails; seconds are CPU seconds of one core."""
PARTLESS = LabelKind.gave_up
"""A kind for conversations without a fault, which nobody looks at."""


def synthetic_bases(tasks: int) -> Iterator[Base]:
    """A perfect agent on generated tasks of every condition."""
    for condition in conditions():
        for number in range(tasks):
            task = made(condition.condition, number)
            moves = [*reads(task), CONFIRM, DONE] if task.knobs.get("declined") else expert(task)
            played = play(task, moves, ending=Ending.user_stop)
            if played.outcome is Outcome.success:
                yield Base(task, items_of(played), empty_world(), real=False)


class Counted:
    """Hits and misses by label kind, decisive kind and party."""

    def __init__(self) -> None:
        self.hit: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.false: Counter[str] = Counter()
        self.decisive: Counter[tuple[str, str]] = Counter()
        self.party: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []

    def add(self, planted: Planted, found: set[tuple[str, int]], failure: Failure) -> None:
        """One diagnosis against the planter's truth."""
        truth = {(kind.value, turn) for kind, turn in planted.truth}
        self.hit.update(kind for kind, _ in truth & found)
        self.missed.update(kind for kind, _ in truth - found)
        self.false.update(kind for kind, _ in found - truth)
        kind = failure.labels[failure.decisive].kind.value
        party = failure.attribution.party.value
        self.decisive[planted.decisive.value, kind] += 1
        self.party[planted.party.value, party] += 1
        if truth != found or party != planted.party.value or kind != planted.decisive.value:
            verdict = f"decisive {planted.decisive.value}/{kind}, party {planted.party.value}/{party}"
            labels = f"missed {sorted(truth - found)}, false {sorted(found - truth)}"
            self.wrong.append(f"{planted.name} {planted.trajectory.task.id}: {labels}, {verdict}")


def _own(planted: Planted, base_labels: set[tuple[str, int, str | None]], failure: Failure) -> set[tuple[str, int]]:
    """The labels that are not the base's: same kind and tool at a turn that the fault left as it was."""
    return {
        (label.kind.value, label.turn)
        for label in failure.labels
        if (label.kind.value, planted.unchanged.get(label.turn, -1), label.tool) not in base_labels
    }


def measure(bases: Sequence[Base]) -> dict[str, Any]:
    """Plant everything everywhere, diagnose it, count."""
    counted, seconds, names, real = Counted(), {True: 0.0, False: 0.0}, Counter[str](), 0
    for base in bases:
        clean = perform(Fault("none", base.task, base.items, [], PARTLESS), base.world).trajectory
        labels = {(label.kind.value, label.turn, label.tool) for label in evidence(clean, read_steps(clean))}
        for planted in plant(base, PLANTERS):
            identifiers.cache_clear()
            began = time.process_time()
            failure = explain(planted.trajectory)
            seconds[base.real] += time.process_time() - began
            counted.add(planted, _own(planted, labels, failure), failure)
            names[planted.name] += 1
            real += base.real
    return _result(counted, names, real, seconds)


def _result(counted: Counted, names: Counter[str], real: int, seconds: dict[bool, float]) -> dict[str, Any]:
    total = names.total()
    kinds = sorted({*counted.hit, *counted.missed})
    precision = {k: counted.hit[k] / max(counted.hit[k] + counted.false[k], 1) for k in kinds}
    recall = {k: counted.hit[k] / (counted.hit[k] + counted.missed[k]) for k in kinds}
    right = sum(count for (planted, found), count in counted.decisive.items() if planted == found)
    blamed = sum(count for (planted, found), count in counted.party.items() if planted == found)
    return {
        "trajectories": total,
        "real_share": round(real / total, 3),
        "faults": dict(sorted(names.items())),
        "macro_precision": round(mean(precision.values()), 4),
        "macro_recall": round(mean(recall.values()), 4),
        "decisive_accuracy": round(right / total, 4),
        "attribution_accuracy": round(blamed / total, 4),
        "trajectories_per_second": round(total / sum(seconds.values()), 1),
        "real_trajectories_per_second": round(real / seconds[True], 1) if real else None,
        "labels": {
            k: {
                "planted": counted.hit[k] + counted.missed[k],
                "precision": round(precision[k], 4),
                "recall": round(recall[k], 4),
            }
            for k in kinds
        },
        "not_planted": dict(sorted((k, n) for k, n in counted.false.items() if k not in kinds)),
        "decisive": _matrix(counted.decisive),
        "attribution": _matrix(counted.party),
        "wrong": counted.wrong,
    }


def _matrix(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for (planted, found), count in sorted(counts.items()):
        rows.setdefault(planted, {})[found] = count
    return rows


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--tasks", type=int, default=3, help="generated tasks per condition")
    parser.add_argument("--file", type=Path, default=SHARED, help="a tau2 result file with real conversations")
    parser.add_argument("--wrong", type=int, default=20, help="wrong verdicts to print")
    arguments = parser.parse_args()
    real = list(real_bases(arguments.file)) if arguments.file.exists() else []
    result = measure([*real, *synthetic_bases(arguments.tasks)])
    result["wrong"] = result["wrong"][: arguments.wrong]
    print(json.dumps(result, indent=1))
    unmet = [f"{name}: {result[name]}, wanted {floor}" for name, floor in FLOORS.items() if result[name] < floor]
    if unmet:
        sys.exit("; ".join(unmet))


if __name__ == "__main__":
    main()
