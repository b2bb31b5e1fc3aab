"""tau2-bench retail as our records: its tasks, splits, policy text, tool schemas, and the people its tasks are about.

    tasks = benchmark_tasks("tau2-test")

Everything is read from the data files of the installed package (26.3: the tasks before tau2 1.0, reward basis DB and
COMMUNICATE); litellm is not imported. Benchmark tasks have no intents for the scripted user: they are played with an
LLM user, or by a gold agent. Their `signature` is filled in where leakage is checked.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Literal

from sentinel.env.overlay import World
from sentinel.env.retail import RETAIL_DATA_DIR, RetailTools
from sentinel.records import Json, Origin, OriginKind, Scenario, Task, ToolCall

BenchmarkSet = Literal["tau2-base", "tau2-test", "tau2-train"]


def _load(name: str) -> Json:
    return json.loads((RETAIL_DATA_DIR / name).read_text(encoding="utf-8"))


def benchmark_tasks(which: BenchmarkSet) -> list[Task]:
    """The tasks of a benchmark set (base 114 = train 74 + test 40), by their tau2 ids, in tau2's order."""
    wanted = set(_load("split_tasks.json")[which.removeprefix("tau2-")])
    return [task for task in _all_tasks() if task.id in wanted]


@cache
def _all_tasks() -> tuple[Task, ...]:
    world = World.tau2().hash
    return tuple(_task(raw, world) for raw in _load("tasks.json"))


def _task(raw: Json, world: str) -> Task:
    instructions, criteria = raw["user_scenario"]["instructions"], raw["evaluation_criteria"]
    return Task(
        id=raw["id"],
        world=world,
        origin=Origin(kind=OriginKind.benchmark),
        scenario=Scenario(
            reason_for_call=instructions["reason_for_call"],
            known_info=instructions["known_info"] or "",
            unknown_info=instructions["unknown_info"] or "",
            instructions=instructions["task_instructions"] or "",
        ),
        gold=tuple(ToolCall(name=action["name"], arguments=action["arguments"]) for action in criteria["actions"]),
        communicate=tuple(criteria["communicate_info"]),
    )


def as_tau2(task: Task, *, own_records: bool = True) -> dict[str, Json]:
    """A task as tau2 stores it, to be run by tau2 itself.

    Args:
        task: ours; what it must not say (`avoid`) has no place in tau2, which does not look at it.
        own_records: whether to lay the task's own users, orders and products over the database.
    """
    told = task.scenario
    instructions = {
        "domain": task.domain,
        "reason_for_call": told.reason_for_call,
        "known_info": told.known_info,
        "unknown_info": told.unknown_info or None,
        "task_instructions": told.instructions or ".",
    }
    actions = [{"action_id": str(number), **call.model_dump()} for number, call in enumerate(task.gold)]
    start = {"initialization_data": {"agent_data": task.records}} if own_records and task.records else None
    return {
        "id": task.id,
        "description": {"purpose": f"{task.knobs.get('condition', '')}; pattern {task.origin.pattern or 'none'}"},
        "user_scenario": {"persona": None, "instructions": instructions},
        "initial_state": start,
        "evaluation_criteria": {
            "actions": actions,
            "communicate_info": list(task.communicate),
            "nl_assertions": None,
            "reward_basis": ["DB", "COMMUNICATE"],
        },
    }


@cache
def policy_text() -> str:
    """The retail policy, as tau2 gives it to an agent."""
    text: str = (RETAIL_DATA_DIR / "policy.md").read_text(encoding="utf-8")
    return text


@cache
def _schemas() -> str:
    tools = RetailTools(World.from_data({}).db).get_tools()
    return json.dumps([tool.openai_schema for tool in tools.values()])


def tool_schemas() -> list[dict[str, Json]]:
    """The tools in OpenAI's function format, in tau2's order; a fresh copy."""
    schemas: list[dict[str, Json]] = json.loads(_schemas())
    return schemas


@cache
def benchmark_users() -> frozenset[str]:
    """Users that any benchmark task names: by id, e-mail, name with zip code, or one of their orders."""
    texts = [task.model_dump_json().lower() for task in _all_tasks()]
    return frozenset(user for user in World.tau2().db.users if any(_names(text, user) for text in texts))


def _names(text: str, user_id: str) -> bool:
    user = World.tau2().db.users[user_id]
    person = (user.name.first_name, user.name.last_name, user.address.zip)
    return all(word.lower() in text for word in person) or any(
        word.lower() in text for word in (user_id, user.email, *user.orders)
    )
