"""The line of descent of a task: its pattern, its probes, every group it was trained in, and what came after.

    found = trace(Path("runs/retail-cpu"), "01-3f2a91c0-004")      # or the id of a pattern: all of its tasks
    print(found.summary())

Read from the artifacts of a run, whole or still under way; nothing is computed anew.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sentinel.artifacts import read_json, read_jsonl
from sentinel.descent import Drawn, Probed
from sentinel.errors import SentinelError
from sentinel.records import Directive, Json, Part, Pattern, Quota, Task, Verdict


class Step(Part):
    """One thing that happened to a task."""

    iteration: int
    what: str
    """`diagnosed`, `probed`, `kept`, `parked`, `dropped`, `drawn`, `in the pool` or `resting`."""
    detail: str = ""


class Line(Part):
    """A task from its pattern to its last update."""

    task: str
    condition: str
    request: str
    pattern: str | None
    parent: str | None
    steps: tuple[Step, ...]

    def summary(self) -> str:
        """In words, a line for each step."""
        told = [f"task {self.task} ({self.condition}): {self.request}"]
        told += [f"  seen failing in {self.parent}"] * bool(self.parent)
        return "\n".join([*told, *(f"  {s.iteration:02d} {s.what:<11} {s.detail}".rstrip() for s in self.steps)])


class Found(Part):
    """What was asked for: one task, or all tasks of a pattern."""

    patterns: dict[str, tuple[str, ...]]
    """Pattern id -> what it is, and what was ordered for it, iteration by iteration."""
    lines: tuple[Line, ...]

    def summary(self) -> str:
        """For people."""
        patterns = [f"pattern {name}\n" + "\n".join(f"  {one}" for one in told) for name, told in self.patterns.items()]
        return "\n".join([*patterns, *(line.summary() for line in self.lines)])


class _Round(NamedTuple):
    """The artifacts of one iteration, as far as they are there."""

    number: int
    folder: Path

    def _file(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_file() else None

    def patterns(self) -> list[Pattern]:
        path = self._file("control/patterns.jsonl")
        return read_jsonl(path, Pattern, may_be_empty=True) if path else []

    def quotas(self) -> tuple[Quota, ...]:
        path = self._file("control/directive.json")
        return read_json(path, Directive).quotas if path else ()

    def rates(self) -> dict[str, Json]:
        path = self._file("rollout/rates.json")
        return dict(json.loads(path.read_text(encoding="utf-8"))["tasks"]) if path else {}

    def tasks(self, name: str) -> list[Task]:
        path = self._file(name)
        return read_jsonl(path, Task, may_be_empty=True) if path else []

    def probes(self) -> dict[str, Probed]:
        path = self._file("propose/probes.jsonl")
        return {each.task: each for each in read_jsonl(path, Probed, may_be_empty=True)} if path else {}

    def dropped(self) -> dict[str, Verdict]:
        path = self._file("propose/rejected.jsonl")
        return {each.candidate: each for each in read_jsonl(path, Verdict, may_be_empty=True)} if path else {}

    def drawn(self) -> list[Drawn]:
        path = self._file("train/curriculum.jsonl")
        return read_jsonl(path, Drawn, may_be_empty=True) if path else []


def trace(run: Path, name: str) -> Found:
    """Follow a task, or every task of a pattern, through a run.

    Raises:
        SentinelError: there is no such run, or nothing of this name in it.
    """
    folders = sorted(path for path in run.glob("[0-9][0-9]") if path.is_dir())
    if not folders:
        known = ", ".join(sorted({path.parent.name for path in run.parent.glob("*/01")})) or "none"
        raise SentinelError(f"{run}: no run with an iteration is here; there are: {known}")
    rounds = [_Round(int(folder.name), folder) for folder in folders]
    tasks = {task.id: task for task in _all_tasks(rounds)}
    wanted = [tasks[name]] if name in tasks else [task for task in tasks.values() if task.origin.pattern == name]
    patterns = _patterns(rounds)
    if not wanted and name not in patterns:
        near = difflib.get_close_matches(name, [*tasks, *patterns], 5, 0.5)
        hint = f"; close to it: {', '.join(near)}" if near else ""
        raise SentinelError(f"{run}: neither a task that was played nor a pattern is called '{name}'{hint}")
    about = {task.origin.pattern for task in wanted} | {name}
    steps = _steps(rounds)
    return Found(
        patterns={each: told for each, told in patterns.items() if each in about},
        lines=tuple(_line(task, steps.get(task.id, [])) for task in wanted),
    )


def _all_tasks(rounds: list[_Round]) -> Iterator[Task]:
    for one in rounds:
        for name in ("propose/tasks.jsonl", "propose/parked.jsonl", "train/pool.jsonl", "train/resting.jsonl"):
            yield from one.tasks(name)


def _patterns(rounds: list[_Round]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for one in rounds:
        for pattern in one.patterns():
            seen = "".join(f"; seen in {each.trajectory}, turn {each.turn}" for each in pattern.evidence[:1])
            found.setdefault(pattern.id, []).append(
                f"{one.number:02d} {pattern.status}: {pattern.description.rstrip('.')}{seen}"
            )
        for quota in one.quotas():
            told = f"{one.number:02d} ordered: {quota.tasks} tasks: {quota.instruction}"
            found.setdefault(quota.pattern, []).append(told)
    return {name: tuple(told) for name, told in found.items()}


def _steps(rounds: list[_Round]) -> dict[str, list[Step]]:
    """Task id -> what happened to it, in order."""
    found: dict[str, list[Step]] = {}
    for one in rounds:
        for task, what, detail in _events(one):
            found.setdefault(task, []).append(Step(iteration=one.number, what=what, detail=detail))
    return found


def _events(one: _Round) -> Iterator[tuple[str, str, str]]:
    for task, (successes, trials) in one.rates().items():
        yield task, "diagnosed", f"solved {successes} of {trials}"
    for task, probe in one.probes().items():
        yield task, "probed", f"solved {probe.successes} of {probe.trials}"
    yield from ((task.id, "kept", "") for task in one.tasks("propose/tasks.jsonl"))
    parked = {task.id for task in one.tasks("propose/parked.jsonl")}
    for task, verdict in one.dropped().items():
        yield task, "parked" if task in parked else "dropped", f"{verdict.gate or 'void'}: {verdict.reason}"
    for each in one.drawn():
        took_part = f"update {each.update}" if each.update is not None else "no information"
        detail = f"step {each.step}, {each.use}, expected {each.estimate:.2f}, solved {each.successes} of {each.trials}"
        yield each.task, "drawn", f"{detail}: {took_part}"
    yield from ((task.id, "in the pool", "") for task in one.tasks("train/pool.jsonl"))
    yield from ((task.id, "resting", "") for task in one.tasks("train/resting.jsonl"))


def _line(task: Task, steps: list[Step]) -> Line:
    return Line(
        task=task.id,
        condition=str(task.knobs.get("condition", "")),
        request=task.scenario.reason_for_call,
        pattern=task.origin.pattern,
        parent=task.origin.parent,
        steps=tuple(steps),
    )
