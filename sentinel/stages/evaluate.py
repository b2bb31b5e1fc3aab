"""The evaluate stage: a policy plays the held-out tasks; outcomes per trial, and Pass^k with intervals."""

from __future__ import annotations

from collections.abc import Callable

from sentinel.artifacts import read_jsonl, write_json, write_jsonl
from sentinel.env.overlay import WRITE_TOOLS
from sentinel.env.task_sets import task_set
from sentinel.evaluation.metrics import Floors, evaluate_metrics
from sentinel.llm.engine import Limits
from sentinel.llm.scripted import ScriptedEngine
from sentinel.records import Outcome, Task, Trajectory, Trial
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Action, Demonstration, do_nothing, refuse_always
from sentinel.rollout.episode import Assignment
from sentinel.rollout.pool import assign
from sentinel.stages.context import Context
from sentinel.stages.playing import opened, play_all


def run(context: Context) -> None:
    """Evaluate; the evaluation of the base also measures the floors that need no skill."""
    spec, inputs = context.spec, context.inputs
    tasks = read_jsonl(inputs["tasks"] / "evaluate.jsonl", Task)
    assignments = assign(tasks, spec.evaluator.trials, spec.base.seed, "evaluate")
    with opened(context) as players:
        played = play_all(context, players, assignments, spec.evaluator)
    trials = [trial(episode.trajectory) for episode in played]
    floors = _floors(tasks, players.arena) if context.iteration == 0 else None
    write_jsonl(context.output / "trials.jsonl", trials)
    write_json(
        context.output / "metrics.json", evaluate_metrics(trials, spec.evaluator, task_set(tasks), floors=floors)
    )


def trial(trajectory: Trajectory) -> Trial:
    """What Pass^k needs of a trajectory."""
    task = trajectory.task
    return Trial(
        task=task.id,
        trial=trajectory.trial,
        outcome=trajectory.outcome,
        void_reason=trajectory.void_reason,
        knobs=task.knobs,
        tools=tuple(dict.fromkeys(call.name for call in task.gold if call.name in WRITE_TOOLS)),
        ending=trajectory.ending,
        counts=trajectory.counts,
    )


def _floors(tasks: list[Task], arena: Arena) -> Floors:
    return Floors(do_nothing=_floor(do_nothing, tasks, arena), refuse_always=_floor(refuse_always, tasks, arena))


def _floor(agent: Callable[[Task], list[Action]], tasks: list[Task], arena: Arena) -> float:
    """Success rate of an agent without skill; it is deterministic, so one episode a task."""
    episodes = [Demonstration(Assignment(task, 0, 0), arena, agent(task)) for task in tasks]
    ScriptedEngine().run(episodes, Limits(1.0, arena.max_context, arena.max_context))
    won = [episode.played("", 0, 0).trajectory.outcome is Outcome.success for episode in episodes]
    return sum(won) / len(won)
