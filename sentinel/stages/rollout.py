"""The rollout stage: the current policy plays tasks of the pool; what it fails at is what the Controller reads."""

from __future__ import annotations

from collections import Counter

from sentinel.artifacts import read_jsonl, write_json, write_jsonl
from sentinel.records import Outcome, Record, Tally, Task, Trajectory
from sentinel.rollout.pool import assign
from sentinel.seeds import generator
from sentinel.stages.context import Context
from sentinel.stages.playing import opened, play_all


class Rates(Record):
    """Successes of the diagnosis."""

    tally: Tally
    """Episodes: kept are those with an outcome, void ones are counted by reason."""
    success_rate: float | None
    """Over the kept episodes."""
    tasks: dict[str, tuple[int, int]]
    """Task id -> (successes, episodes with an outcome)."""


def run(context: Context) -> None:
    """Play `rollout.tasks` tasks of the pool, `rollout.trials` times each."""
    spec, inputs = context.spec, context.inputs
    chosen = _choose(read_jsonl(inputs["pool"], Task), spec.rollout.tasks, spec.seed, context.iteration)
    assignments = assign(chosen, spec.rollout.trials, spec.seed, "rollout", context.iteration)
    with opened(context) as players:
        played = play_all(context, players, assignments, spec.rollout)
    trajectories = [episode.trajectory for episode in played]
    write_jsonl(context.output / "trajectories.jsonl", trajectories)
    write_json(context.output / "rates.json", rates(trajectories))


def _choose(pool: list[Task], count: int, seed: int, iteration: int) -> list[Task]:
    """`count` tasks of the pool without repetition, in the order of the pool."""
    rng = generator(seed, "rollout", iteration, "tasks")
    places = sorted(rng.choice(len(pool), size=min(count, len(pool)), replace=False).tolist())
    return [pool[place] for place in places]


def rates(trajectories: list[Trajectory]) -> Rates:
    """Success rates by task, and what became of every episode."""
    scored = [t for t in trajectories if t.outcome is not Outcome.void]
    void = Counter(str(t.void_reason) for t in trajectories if t.outcome is Outcome.void)
    by_task: dict[str, list[bool]] = {}
    for trajectory in scored:
        by_task.setdefault(trajectory.task.id, []).append(trajectory.outcome is Outcome.success)
    won = sum(sum(outcomes) for outcomes in by_task.values())
    return Rates(
        tally=Tally(requested=len(trajectories), kept=len(scored), void=dict(void)).check(),
        success_rate=won / len(scored) if scored else None,
        tasks={task: (sum(outcomes), len(outcomes)) for task, outcomes in by_task.items()},
    )
