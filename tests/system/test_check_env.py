"""Our score against tau2's official evaluator, and against the stored rewards of real trajectories."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sentinel.env.check import check_env
from sentinel.env.official import Judge, Played, SharedTools
from sentinel.env.overlay import World
from sentinel.env.scoring import gold_delta, score
from sentinel.env.shared import SharedDatabase
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


def task(number: str) -> Task:
    return next(task for task in benchmark_tasks("tau2-base") if task.id == number)


def turned(call: ToolCall) -> ToolCall:
    """The same items in the opposite order."""
    lists = ("item_ids", "new_item_ids")
    arguments = {name: value[::-1] if name in lists else value for name, value in call.arguments.items()}
    return call.model_copy(update={"arguments": arguments})


def moved(number: str, then: bool) -> list[ToolCall]:
    """The gold answer, before which the customer moves, is looked up at both addresses, and moves back (or not)."""
    (identity,) = {c.arguments["user_id"] for c in task(number).gold if c.name == "get_user_details"}
    user = World.tau2().db.users[identity]
    home = user.address.model_dump()
    away = home | {"zip": "00000", "city": "Elsewhere"}
    move, back = (
        ToolCall(name="modify_user_address", arguments={"user_id": identity, **where}) for where in (away, home)
    )
    looks = [
        ToolCall(name="find_user_id_by_name_zip", arguments={**user.name.model_dump(), "zip": where["zip"]})
        for where in (home, away)
    ]
    return [move, *looks, *([back, *looks] if then else []), *task(number).gold]


def without_refused(number: str) -> list[ToolCall]:
    session = World.tau2().open()
    return [call for call in task(number).gold if not session.call(call).error]


NONSENSE = [
    ToolCall(name="get_item_details", arguments={"item_id": "1"}),
    ToolCall(name="get_order_details", arguments={"order_id": 7}),
    ToolCall(name="calculate", arguments={"formula": "1 + 1"}),
]
QUIRKS: dict[str, tuple[str, list[ToolCall], float]] = {
    **{f"{n}: a gold write is refused": (n, list(task(n).gold), 1.0) for n in ("12", "13", "64", "105")},
    **{f"{n}: the refused write is left out": (n, without_refused(n), 1.0) for n in ("12", "13", "64", "105")},
    **{
        f"{n}: items in another order": (n, [turned(call) for call in task(n).gold], 0.0)
        for n in ("20", "21", "36", "37", "100")
    },
    "6: looked up after a move": ("6", moved("6", then=False), 0.0),
    "6: moved there and back": ("6", moved("6", then=True), 1.0),
    "6: calls that make no sense": ("6", [*NONSENSE, *task("6").gold], 1.0),
    "6: every write twice": ("6", [call for call in task("6").gold for _ in range(2)], 1.0),
}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(World.tau2())


@pytest.mark.parametrize("name", QUIRKS)
def test_quirks_are_scored_as_by_tau2(name: str, judge: Judge) -> None:
    """The judge also compares every answer, errors included, with that of tau2's own environment."""
    number, calls, expected = QUIRKS[name]
    session, said = World.tau2().open(), task(number).communicate
    played = Played([(call, session.call(call)) for call in calls], said)
    ours = score(task(number), session.delta(), gold_delta(World.tau2(), task(number)), said)
    assert ours.total == judge.reward(task(number), played) == expected


def test_a_quirk_with_nothing_shared(judge: Judge) -> None:
    session = World.tau2().open()
    played = Played([(call, session.call(call)) for call in moved("6", then=False)], ())
    assert judge.reward_untouched(task("6"), played) == 0.0


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


def test_stored_trajectories_earn_their_stored_rewards_and_those_of_tau2s_evaluator(root: Path, judge: Judge) -> None:
    world, tasks = World.tau2(), {task.id: task for task in benchmark_tasks("tau2-base")}
    simulations, reproduced = stored(root), 0
    for simulation in simulations:
        task, session, calls, texts = tasks[simulation["task_id"]], world.open(), [], []
        for message in simulation["messages"]:
            if message["role"] == "assistant":
                texts += [message["content"]] if message["content"] else []
                made = [ToolCall(name=c["name"], arguments=c["arguments"]) for c in message["tool_calls"] or []]
                calls += [(call, session.call(call)) for call in made]
        seen = [message["content"] for message in simulation["messages"] if message["role"] == "tool"]
        assert [parsed(answer.text) for _, answer in calls] == [parsed(text) for text in seen], simulation["task_id"]
        reward = score(task, session.delta(), gold_delta(world, task), texts)
        assert reward.total == judge.reward(task, Played(calls, texts)), simulation["task_id"]
        reproduced += reward.total == simulation["reward_info"]["reward"]
    assert (reproduced, len(simulations)) == (114, 114)
