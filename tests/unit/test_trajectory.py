"""Every condition, in every kind of world: its gold runs, its expert succeeds, and those without skill do not."""

from __future__ import annotations

import pytest

from sentinel.env.overlay import WRITE_TOOLS
from sentinel.env.scoring import gold_delta
from sentinel.env.tau2 import benchmark_users
from sentinel.env.users import ScriptedUser
from sentinel.env.vocabulary import agent_says
from sentinel.proposer.conditions import Condition
from sentinel.proposer.trajectory import generate
from sentinel.records import Ending, Outcome, Task
from sentinel.rollout.demonstrator import Action, careless, do_nothing, expert, refuse_always
from sentinel.seeds import generator
from sentinel.spec.warmup import SKILLS
from tests.unit.builders import CONDITIONS, GENERAL, acted, arena, benchmark_orders, made, scenes, world

IDS = ("atomic", "natural", "tau2")
EACH = pytest.mark.parametrize(("name", "ids"), [(name, ids) for ids in IDS for name in CONDITIONS])


def succeeds(task: Task, actions: list[Action], ids: str = "atomic") -> bool:
    return acted(task, actions, arena(ids)).trajectory.outcome is Outcome.success


@EACH
def test_the_gold_answer_runs_and_changes_what_it_should(name: str, ids: str) -> None:
    task, condition = made(name, ids=ids), CONDITIONS[name]
    session = world(ids).open(task.records)
    results = [session.call(call) for call in task.gold]
    assert [result.text for result in results if result.error] == []
    writes = [call for call in task.gold if call.name in WRITE_TOOLS]
    forbidden = condition.obstacle != "none" or condition.declined or condition.family == "transfer"
    assert len(writes) == (0 if forbidden else len(condition.requests))
    assert bool(gold_delta(world(ids), task)) == bool(writes)
    assert bool(task.temptations) == (condition.obstacle != "none" or condition.declined)
    assert task.world == world(ids).hash
    if writes and condition.items == 2:
        assert [len(call.arguments["item_ids"]) for call in writes] == [2]


@EACH
def test_the_expert_succeeds_through_the_scripted_user(name: str, ids: str) -> None:
    for number in range(3):
        task = made(name, number, ids)
        trajectory = acted(task, expert(task), arena(ids)).trajectory
        assert trajectory.ending is Ending.user_stop
        assert trajectory.outcome is Outcome.success
        assert trajectory.counts.errors == 0


@EACH
def test_the_floors_score_what_they_must(name: str, ids: str) -> None:
    task = made(name, ids=ids)
    assert not succeeds(task, do_nothing(task), ids)
    assert succeeds(task, refuse_always(task), ids) == (CONDITIONS[name].family == "refuse")


@pytest.mark.parametrize("ids", ["atomic", "tau2"])
@pytest.mark.parametrize("skill", SKILLS)
def test_the_careless_agent_lacks_the_skill(skill: str, ids: str) -> None:
    tasks = [made(name, n, ids=ids) for name, c in CONDITIONS.items() if c.skill == skill for n in range(8)]
    won = [succeeds(task, careless(task, world(ids), generator("careless", task.id)), ids) for task in tasks]
    assert sum(won) / len(won) <= 0.5
    if skill != "ask":  # a guess may be right
        assert sum(won) == 0


def test_the_careless_agent_can_do_the_rest() -> None:
    for name, condition in CONDITIONS.items():
        if condition.skill == "base":
            assert careless(made(name), world(), generator(0)) == expert(made(name))


@pytest.mark.parametrize("name", ["refuse/bad_reason", "refuse/refund_method", "cancel/declined"])
def test_giving_in_to_temptation_fails(name: str) -> None:
    """These writes are legal for the tools: only policy or the user forbids them."""
    task = made(name)
    session = world().open(task.records)
    if name != "refuse/refund_method":
        assert not any(session.call(call).error for call in task.temptations)
    gives_in: list[Action] = [*task.gold, agent_says("confirm"), *task.temptations, agent_says("deny")]
    closing: list[Action] = [*gives_in[:-1], agent_says("done")]
    assert not succeeds(task, closing)
    if session.delta():
        assert not succeeds(task, gives_in), "the right words do not make a wrong write good"


def test_the_users_words_determine_the_gold_answer() -> None:
    """Whatever a write needs is in the opening, in an answer to a question, or in the world."""
    for name in CONDITIONS:
        task = made(name)
        user = ScriptedUser(task.scenario)
        said = " ".join([user.opening(), *(user.reply(agent_says(f"ask_{what}")) for what in ("order", "payment"))])
        for call in task.gold:
            if call.name in WRITE_TOOLS and "order_id" in call.arguments:
                assert call.arguments["order_id"] in said
            if "address1" in call.arguments:
                assert call.arguments["address1"] in said


def test_requests_of_one_task_are_about_different_orders() -> None:
    for name, condition in CONDITIONS.items():
        if condition.family == "two":
            orders = [call.arguments["order_id"] for call in made(name).gold if call.name in WRITE_TOOLS]
            assert len(set(orders)) == 2


def test_equal_seeds_give_equal_tasks() -> None:
    for name in ("two/address_exchange", "payment/plain"):
        one, again, other = (draw(CONDITIONS[name], seed) for seed in (5, 5, 6))
        assert one == again
        assert one != other


def draw(condition: Condition, seed: int) -> Task:
    task = generate(condition, scenes(), generator(seed), task_id="t", origin=GENERAL)
    assert task is not None
    return task


def test_tasks_in_tau2s_world_leave_the_benchmarks_people_alone() -> None:
    for name in CONDITIONS:
        for call in made(name, ids="tau2").gold:
            assert call.arguments.get("order_id") not in benchmark_orders()
            assert call.arguments.get("user_id") not in benchmark_users()


def test_a_world_without_a_fitting_order_gives_none() -> None:
    """Two orders cannot be changed where there is one."""
    task = made("cancel/plain")
    order = task.records["orders"][next(c.arguments["order_id"] for c in task.gold if "order_id" in c.arguments)]
    owner = task.records["users"][order["user_id"]]
    records = {
        "users": {owner["user_id"]: {**owner, "orders": [order["order_id"]]}},
        "orders": {order["order_id"]: order},
        "products": task.records["products"],
    }
    first = scenes()(generator(0))
    only = first._replace(records=records, db=type(first.db).model_validate(records), users=[owner["user_id"]])
    generated = generate(CONDITIONS["two/cancel_return"], lambda rng: only, generator(0), task_id="t", origin=GENERAL)
    assert generated is None
    assert generate(CONDITIONS["cancel/plain"], lambda rng: only, generator(0), task_id="t", origin=GENERAL)
