"""Does our reward equal tau2's? A gold agent, a do-nothing agent and wrong-argument mutants, scored by both.

    report = check_env(benchmark_tasks("tau2-base"), World.tau2())
    report.agreement        # 1.0: the cheap overlay and delta score may stand for tau2's environment and evaluator

Every episode runs on our overlay; tau2's official evaluator (`sentinel.env.official`) then replays its calls in its own
environment, compares every observation with ours, and gives its reward. The gold agent's episode of every fourth
benchmark task is judged a second time by the evaluator with nothing shared, so that the sharing is checked too. The 114
tasks take half a minute. Says nothing about users or policies: no conversation is played.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import Field

from sentinel.artifacts import read_jsonl, require
from sentinel.env.mutants import Script, gold, mutants, noop
from sentinel.env.official import Judge, Played
from sentinel.env.overlay import Delta, World
from sentinel.env.scoring import gold_delta, score
from sentinel.env.task_sets import task_set
from sentinel.env.tau2 import benchmark_tasks
from sentinel.records import OriginKind, Part, Record, Task, TaskSet
from sentinel.spec.models import ExperimentSpec

Advance = Callable[[], None]
"""Called after every task."""
UNTOUCHED = "gold, nothing shared"
UNTOUCHED_EVERY = 4
"""Benchmark tasks per verdict with nothing shared; one costs as much as 60 others."""


class Disagreement(Part):
    """An episode that tau2 judges otherwise, or whose observations it does not reproduce."""

    task: str
    agent: str
    ours: float
    official: float | None
    """tau2's reward; `None` where the replay already differed."""
    detail: str = ""


class EnvReport(Record):
    """How our environment compares with tau2's."""

    task_set: TaskSet
    tasks: int
    gold_success: int
    """Tasks in which the gold agent succeeds, by tau2's verdict."""
    noop_success: int
    """Tasks in which doing and saying nothing succeeds: the floor of every score."""
    mutants: int
    mutant_success: int
    """Mutants that succeed all the same, such as those of a gold write that tau2 refuses."""
    scored: int
    """Verdicts compared: gold (twice on some benchmark tasks), do-nothing, mutants."""
    agreement: float = Field(ge=0.0, le=1.0)
    """Share of the compared verdicts that are equal."""
    disagreements: tuple[Disagreement, ...]

    @property
    def sound(self) -> bool:
        """Whether our scores may stand for tau2's."""
        return not self.disagreements

    def summary(self) -> str:
        """The counts in words, and the first disagreements."""
        lines = [
            self.task_set.label,
            f"{self.tasks} tasks, {self.scored} verdicts compared, agreement {self.agreement:.4g}",
            f"gold succeeds in {self.gold_success}, doing nothing in {self.noop_success}, "
            f"{self.mutant_success} of {self.mutants} mutants",
            *(
                f"task {d.task}, {d.agent}: ours {d.ours}, tau2 {d.official} {d.detail}"
                for d in self.disagreements[:20]
            ),
        ]
        return "\n".join(lines)


def subject(spec: ExperimentSpec, runs: Path = Path("runs")) -> tuple[list[Task], World]:
    """What there is to check for an experiment: all benchmark tasks, or the held-out tasks of its synthetic world."""
    if spec.environment.world.type == "tau2":
        return benchmark_tasks("tau2-base"), World.tau2()
    folder = runs / "bases" / spec.base.name / "tasks"
    tasks = read_jsonl(folder / "evaluate.jsonl", Task)
    return tasks, World.from_data(json.loads(require(folder / "world.json").read_text(encoding="utf-8")))


class _Verdict(Part):
    agent: str
    ours: float
    official: float | None
    detail: str = ""


def check_env(tasks: Sequence[Task], world: World, seed: int = 0, advance: Advance | None = None) -> EnvReport:
    """Compare our scores with tau2's over gold, do-nothing and mutant agents.

    Args:
        tasks: Benchmark tasks (judged as tau2's own task objects) or generated ones.
        world: The world they are played in.
        seed: Seed of the mutants.
        advance: Progress.
    """
    judge = Judge(world)
    counts: Counter[str] = Counter()
    disagreements = []
    for number, task in enumerate(tasks):
        twice = number % UNTOUCHED_EVERY == 0 and task.origin.kind is OriginKind.benchmark
        for verdict in _verdicts(task, world, judge, seed, twice):
            _count(verdict, counts)
            if verdict.ours != verdict.official:
                disagreements.append(Disagreement(task=task.id, **verdict.model_dump()))
        if advance:
            advance()
    return EnvReport(
        task_set=task_set(tasks),
        tasks=len(tasks),
        **{name: counts[name] for name in ("gold_success", "noop_success", "mutants", "mutant_success", "scored")},
        agreement=1 - len(disagreements) / max(1, counts["scored"]),
        disagreements=tuple(disagreements),
    )


def _count(verdict: _Verdict, counts: Counter[str]) -> None:
    success = verdict.official == 1.0
    counts["scored"] += 1
    if verdict.agent in ("gold", "noop"):
        counts[f"{verdict.agent}_success"] += success
    elif verdict.agent != UNTOUCHED:
        counts["mutants"] += 1
        counts["mutant_success"] += success


def _verdicts(task: Task, world: World, judge: Judge, seed: int, twice: bool) -> Iterator[_Verdict]:
    target = gold_delta(world, task)
    perfect = gold(task)
    for script in (perfect, noop(task), *mutants(task, world.open(task.records).db, seed)):
        yield _verdict(script, task, world, target, judge.reward)
    if twice:
        yield _verdict(perfect._replace(name=UNTOUCHED), task, world, target, judge.reward_untouched)


def _verdict(
    script: Script, task: Task, world: World, target: Delta, official: Callable[[Task, Played], float]
) -> _Verdict:
    session = world.open(task.records)
    played = Played([(call, session.call(call)) for call in script.calls], script.texts)
    ours = score(task, session.delta(), target, script.texts).total
    try:
        return _Verdict(agent=script.name, ours=ours, official=official(task, played))
    except ValueError as error:  # tau2's replay of a call did not answer as our environment did
        return _Verdict(agent=script.name, ours=ours, official=None, detail=str(error))
