"""The evaluate stage: a trial for every (task, trial), figures that follow from them, and floors of the base alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sentinel.artifacts import read_jsonl
from sentinel.env.overlay import WRITE_TOOLS
from sentinel.env.task_sets import task_set
from sentinel.records import Outcome, Task, Trial
from sentinel.rollout.demonstrator import expert
from sentinel.stages import evaluate
from sentinel.stages.context import Context
from sentinel.stages.evaluate import trial
from tests.unit.builders import (
    CONDITIONS,
    acted,
    arena,
    contents,
    copy_base,
    made,
    small,
    stage_context,
    untrained_base,
)


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose base has been evaluated, and an iteration that left its policy as it was."""
    folder = untrained_base(root, tmp_path_factory.mktemp("evaluate"))
    evaluate.run(context(root, folder))
    shutil.copytree(context(root, folder).inputs["policy"], context(root, folder, 1).inputs["policy"])
    evaluate.run(context(root, folder, 1))
    return folder


def context(root: Path, project: Path, iteration: int = 0) -> Context:
    return stage_context(small(root), "evaluate", project, iteration)


def trials(where: Context) -> list[Trial]:
    return read_jsonl(where.output / "trials.jsonl", Trial)


def metrics(where: Context) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((where.output / "metrics.json").read_text(encoding="utf-8"))
    return found


def test_every_held_out_task_has_all_its_trials(project: Path, root: Path) -> None:
    here = context(root, project)
    tasks = read_jsonl(here.inputs["tasks"] / "evaluate.jsonl", Task)
    assert [(t.task, t.trial) for t in trials(here)] == [(task.id, n) for task in tasks for n in range(2)]
    assert metrics(here)["task_set"] == task_set(tasks).model_dump(mode="json")
    knobs = {task.id: task.knobs for task in tasks}
    assert all(t.knobs == knobs[t.task] for t in trials(here))


def test_the_floors_stand_in_the_bases_metrics_alone(project: Path, root: Path) -> None:
    """29 tasks, one of each condition: refusing is right in six, doing nothing in none."""
    assert metrics(context(root, project))["floors"] == {"do_nothing": 0.0, "refuse_always": pytest.approx(6 / 29)}
    assert metrics(context(root, project, 1))["floors"] is None


def test_an_iteration_that_changed_nothing_is_measured_the_same(project: Path, root: Path) -> None:
    """The seeds are the base's, so iterations are paired: equal weights, equal episodes."""
    assert trials(context(root, project)) == trials(context(root, project, 1))


def test_equal_inputs_give_equal_bytes(project: Path, root: Path, tmp_path: Path) -> None:
    folder = copy_base(project, tmp_path)
    evaluate.run(context(root, folder))
    assert contents(context(root, folder).output) == contents(context(root, project).output)


def test_a_trial_names_the_write_tools_of_the_gold_answer() -> None:
    for name in CONDITIONS:
        task = made(name)
        found = trial(acted(task, expert(task), arena()).trajectory)
        assert found.outcome is Outcome.success
        assert set(found.tools) == {call.name for call in task.gold} & WRITE_TOOLS
        assert len(found.tools) == len(set(found.tools))
