"""A real agent's failures, from the shared file of tau2 trajectories: each gets a decisive step and an attribution."""

import json
from functools import cache
from pathlib import Path

import pytest

from sentinel.controller.attribution import diagnose, explain
from sentinel.env.overlay import World
from sentinel.env.scoring import gold_delta
from sentinel.env.tau2 import benchmark_tasks
from sentinel.records import Json, LabelKind, Message, Outcome, Party, Role, ToolCall, Trajectory
from tests.unit.controller_cases import scored

FILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "tau2-retail-toolorchestra.json"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the shared trajectories are not on this machine")


def converted(raw: Json) -> list[Message]:
    """tau2's messages as ours; turns count the agent's messages, its greeting being turn 0."""
    messages, turn = [], -1
    for entry in raw:
        turn += entry["role"] == "assistant"
        calls = tuple(ToolCall(name=c["name"], arguments=c["arguments"]) for c in entry.get("tool_calls") or ())
        content = entry["content"] or ""
        error = entry["role"] == "tool" and content.startswith("Error")
        messages.append(
            Message(role=Role(entry["role"]), content=content, tool_calls=calls, error=error, turn=max(turn, 0))
        )
    return messages


@cache
def played() -> list[Trajectory]:
    """All simulations, replayed for their end states."""
    world, tasks = World.tau2(), {task.id: task for task in benchmark_tasks("tau2-base")}
    batch = []
    for simulation in json.loads(FILE.read_text(encoding="utf-8"))["simulations"]:
        task, messages = tasks[simulation["task_id"]], converted(simulation["messages"])
        session = world.open()
        for call in (call for message in messages for call in message.tool_calls):
            session.call(call)
        batch.append(scored(task, messages, session.delta(), gold_delta(world, task)))
    return batch


def test_every_failure_has_a_decisive_step_at_a_turn_of_the_agent() -> None:
    diagnosis = diagnose(played())
    assert (len(diagnosis.successes), len(diagnosis.failures)) == (96, 18)
    turns = {f"{p.task.id}#{p.trial}": {m.turn for m in p.messages if m.role is Role.assistant} for p in played()}
    for failure in diagnosis.failures:
        assert failure.labels[failure.decisive].turn in turns[failure.trajectory]
        assert failure.attribution.reason


@pytest.mark.parametrize(
    ("task", "kind", "argument"),
    [
        ("33", LabelKind.missing_communication, None),
        ("98", LabelKind.wrong_argument, "payment_method_id"),
        ("72", LabelKind.extra_write, None),
        ("59", LabelKind.wrong_argument, "country"),
        ("92", LabelKind.wrong_argument, "item_ids"),
        ("66", LabelKind.wrong_argument, "reason"),
        ("22", LabelKind.wrong_argument, "country"),
        ("100", LabelKind.needless_transfer, None),
        ("5", LabelKind.extra_write, None),
        ("62", LabelKind.extra_write, None),
    ],
)
def test_decisive_steps_agree_with_a_reading_of_the_dialogue(task: str, kind: LabelKind, argument: str | None) -> None:
    failure = explain(next(p for p in played() if p.task.id == task))
    label = failure.labels[failure.decisive]
    assert (label.kind, label.argument) == (kind, argument)
    assert failure.attribution.party is Party.agent


def test_users_who_leave_before_the_agent_is_through_are_suspects() -> None:
    failed = [explain(p) for p in played() if p.outcome is Outcome.failure]
    suspects = {failure.task for failure in failed if failure.attribution.party is Party.user_simulator}
    assert suspects == {"42", "106"}


def test_tasks_whose_gold_exchanges_an_item_for_itself_are_not_the_agents_fault() -> None:
    failed = [explain(p) for p in played() if p.outcome is Outcome.failure]
    assert {f.task for f in failed if f.attribution.party is Party.task} == {"18", "91", "107"}
