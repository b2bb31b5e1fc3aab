"""A real agent's failures, from the shared file of tau2 trajectories: each gets a decisive step and an attribution."""

import json
from functools import cache
from pathlib import Path

import pytest

from sentinel.controller.attribution import diagnose, explain
from sentinel.env.overlay import World
from sentinel.env.scoring import gold_delta
from sentinel.env.tau2 import benchmark_tasks
from sentinel.records import Json, LabelKind, Message, Party, Role, ToolCall, Trajectory
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


READINGS = {
    "5": (LabelKind.extra_write, None, Party.user_simulator),
    "18": (LabelKind.extra_write, None, Party.task),
    "22": (LabelKind.wrong_argument, "country", Party.task),
    "27": (LabelKind.extra_write, None, Party.agent),
    "33": (LabelKind.missing_communication, None, Party.agent),
    "38": (LabelKind.wrong_argument, "reason", Party.task),
    "42": (LabelKind.missing_write, None, Party.user_simulator),
    "59": (LabelKind.wrong_argument, "country", Party.task),
    "62": (LabelKind.extra_write, None, Party.user_simulator),
    "66": (LabelKind.wrong_argument, "reason", Party.task),
    "72": (LabelKind.extra_write, None, Party.agent),
    "82": (LabelKind.wrong_argument, "item_ids", Party.user_simulator),
    "91": (LabelKind.extra_write, None, Party.task),
    "92": (LabelKind.unconfirmed_write, None, Party.agent),
    "98": (LabelKind.wrong_argument, "payment_method_id", Party.task),
    "100": (LabelKind.needless_transfer, None, Party.agent),
    "106": (LabelKind.missing_write, None, Party.user_simulator),
    "107": (LabelKind.extra_write, None, Party.task),
}
"""Every failed dialogue as a person read it: the decisive step, and whose it is."""


@pytest.mark.parametrize("task", READINGS)
def test_verdicts_agree_with_a_reading_of_the_dialogue(task: str) -> None:
    failure = explain(next(p for p in played() if p.task.id == task))
    label = failure.labels[failure.decisive]
    assert (label.kind, label.argument, failure.attribution.party) == READINGS[task]


def test_users_who_leave_without_a_transfer_are_candidates_at_least() -> None:
    for task in ("27", "59", "82", "92", "106", "107"):
        verdict = explain(next(p for p in played() if p.task.id == task)).attribution
        reasons = [verdict.reason, *(suspicion.reason for suspicion in verdict.suspicions)]
        assert any("without having been transferred" in reason for reason in reasons), task
