"""Our score against tau2's official evaluator, and against the stored rewards of real trajectories."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sentinel.env.overlay import World
from sentinel.env.scoring import gold_delta, score
from sentinel.env.tau2 import benchmark_tasks
from sentinel.records import Origin, OriginKind, Scenario, Task, ToolCall


def test_check_env_agrees_on_every_benchmark_task(root: Path) -> None:
    command = [sys.executable, "-m", "sentinel.cli", "check-env", "experiments/retail.yaml", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["tasks"], report["gold_success"], report["agreement"]) == (114, 114, 1.0)
    assert report["mutants"] >= 500
    assert report["scored"] == report["mutants"] + 2 * 114 + 29
    assert report["noop_success"] == 7, "11 tasks change nothing, and 4 of those want something said"
    assert 0 < report["mutant_success"] < 0.05 * report["mutants"]
    assert "114/114 tasks" in done.stderr


def test_a_wrong_score_and_a_wrong_answer_are_noticed() -> None:
    from sentinel.env.check import check_env

    task = benchmark_tasks("tau2-base")[0]
    wrong_gold = task.model_copy(update={"gold": task.gold[:-1]})
    report = check_env([wrong_gold], World.tau2())
    assert report.agreement < 1.0
    assert {(d.agent, d.ours, d.official) for d in report.disagreements} >= {("gold", 1.0, 0.0), ("noop", 1.0, 0.0)}

    data = World.tau2().db.model_dump()
    data["orders"]["#W2378156"]["address"]["zip"] = "00000"
    other = check_env([task], World.from_data(data)).disagreements
    assert [(d.agent, d.official) for d in other] == [("gold, nothing shared", None)]
    assert "00000" in other[0].detail


def test_generated_tasks_with_records_of_their_own_are_checked_too() -> None:
    from sentinel.env.check import check_env

    db, empty = World.tau2().db, World.from_data({})
    order = next(order for order in db.orders.values() if order.status == "pending")
    cancel = ToolCall(name="cancel_pending_order", arguments={"order_id": order.order_id, "reason": "no longer needed"})
    task = Task(
        id="generated",
        world=empty.hash,
        records={
            "orders": {order.order_id: order.model_dump()},
            "users": {order.user_id: db.users[order.user_id].model_dump()},
        },
        origin=Origin(kind=OriginKind.general),
        scenario=Scenario(reason_for_call="Please cancel my order."),
        gold=(cancel,),
        communicate=("44.08",),
    )
    report = check_env([task, task.model_copy(update={"records": {}})], empty)
    assert (report.gold_success, report.noop_success, report.agreement) == (2, 0, 1.0)
    assert (report.mutants, report.mutant_success) == (4 + 2, 1), "without its records, the cancellation is refused"


def test_the_shared_hash_is_the_hash_of_tau2() -> None:
    from sentinel.env.official import SharedDatabase, SharedTools

    shared = SharedDatabase(World.tau2().db)
    pristine = World.tau2().db.get_hash()
    hashes = set()
    for task in benchmark_tasks("tau2-test")[:12]:
        tools = SharedTools(shared)
        assert tools.get_db_hash() == pristine
        for call in task.gold:
            with suppress(ValueError):
                tools.use_tool(call.name, **call.arguments)
        assert tools.get_db_hash() == tools.db.get_hash()
        hashes.add(tools.get_db_hash())
    assert len(hashes) > 6


def stored(root: Path) -> list[dict[str, Any]]:
    path = root.parent / "shared" / "data" / "tau2-retail-toolorchestra.json"
    if not path.is_file():
        pytest.skip(f"no stored trajectories at {path}")
    simulations: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["simulations"]
    return simulations


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def test_stored_trajectories_earn_their_stored_rewards(root: Path) -> None:
    world, tasks = World.tau2(), {task.id: task for task in benchmark_tasks("tau2-base")}
    simulations, reproduced = stored(root), 0
    for simulation in simulations:
        task, session, answers, texts = tasks[simulation["task_id"]], world.open(), [], []
        for message in simulation["messages"]:
            if message["role"] == "assistant":
                texts += [message["content"]] if message["content"] else []
                calls = [ToolCall(name=c["name"], arguments=c["arguments"]) for c in message["tool_calls"] or []]
                answers += [session.call(call).text for call in calls]
        seen = [message["content"] for message in simulation["messages"] if message["role"] == "tool"]
        assert [parsed(text) for text in answers] == [parsed(text) for text in seen], simulation["task_id"]
        reward = score(task, session.delta(), gold_delta(world, task), texts)
        reproduced += reward.total == simulation["reward_info"]["reward"]
    assert (reproduced, len(simulations)) == (114, 114)
