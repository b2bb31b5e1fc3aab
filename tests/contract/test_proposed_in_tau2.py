"""The file that `sentinel propose` writes, run by tau2 itself: loader, environment, Orchestrator and evaluator.

Nothing of ours takes part but the file: a gold agent that plays the actions of tau2's task object, and a user that only
opens and closes the conversation, both registered with tau2 as its own are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sentinel.cli import app
from sentinel.env.retail import quiet

with quiet():
    from tau2.agent.llm_agent import LLMGTAgent
    from tau2.data_model.message import AssistantMessage, ToolCall, UserMessage
    from tau2.data_model.tasks import Task
    from tau2.registry import registry
    from tau2.run import load_tasks, run_task
    from tau2.user.user_simulator import UserSimulator


class Gold(LLMGTAgent):  # type: ignore[misc]
    """Makes the calls that the task's file names, then says what it has to."""

    def get_init_state(self, message_history: Any = None) -> Iterator[AssistantMessage]:
        return self._messages()

    def _messages(self) -> Iterator[AssistantMessage]:
        for action in self.task.evaluation_criteria.actions:
            call = ToolCall(id=action.action_id, name=action.name, arguments=action.arguments)
            yield AssistantMessage(role="assistant", tool_calls=[call])
        told = " ".join(self.task.evaluation_criteria.communicate_info or ["All done."])
        yield AssistantMessage(role="assistant", content=told)

    def generate_next_message(self, message: Any, state: Any) -> tuple[AssistantMessage, Any]:
        return next(state), state


class Idle(Gold):
    """Says that all is done, and has done nothing."""

    def _messages(self) -> Iterator[AssistantMessage]:
        yield AssistantMessage(role="assistant", content="All done.")


class Opening(UserSimulator):  # type: ignore[misc]
    """Reads its instructions out, and stops at the first answer."""

    def generate_next_message(self, message: Any, state: Any) -> tuple[UserMessage, Any]:
        text = "###STOP###" if state.messages else str(self.instructions)
        answer = UserMessage(role="user", content=text)
        state.messages.append(answer)
        return answer, state


@pytest.fixture(scope="module")
def registered() -> None:
    registry.register_agent(Gold, "sentinel_gold")
    registry.register_agent(Idle, "sentinel_idle")
    registry.register_user(Opening, "sentinel_opening")


def loader(file: Path) -> Callable[..., list[Task]]:
    """A task set as tau2 has them: a function that reads a file."""
    return lambda task_split_name=None: [Task.model_validate(each) for each in json.loads(file.read_text())]


@pytest.mark.parametrize(
    ("pattern", "count", "tool"),
    [
        ("exchange with a choice taken back", 6, "exchange_delivered_order_items"),
        ("refusal", 6, None),
        ("cancel", 4, "cancel_pending_order"),
        ("question", 4, None),
    ],
)
def test_tau2_loads_runs_and_scores_what_propose_wrote(
    pattern: str, count: int, tool: str | None, registered: None, tmp_path: Path
) -> None:
    file = tmp_path / "tasks.json"
    asked = ["propose", "--pattern", pattern, "--n", str(count), "--world", "tau2", "-o", str(file), "--seed", "3"]
    assert CliRunner().invoke(app, asked).exit_code == 0
    registry.register_tasks(loader(file), f"proposed-{pattern}")
    tasks = load_tasks(f"proposed-{pattern}")
    assert len(tasks) == count
    for task in tasks:
        rewards = {
            agent: run_task("retail", task, agent, "sentinel_opening", llm_args_agent={}, llm_args_user={})
            for agent in ("sentinel_gold", "sentinel_idle")
        }
        gold, idle = rewards["sentinel_gold"], rewards["sentinel_idle"]
        assert gold.reward_info.reward == 1.0, task.id
        assert idle.reward_info.reward == 0.0, task.id
        assert task.user_scenario.instructions.reason_for_call in gold.messages[1].content
    names = {action.name for task in tasks for action in task.evaluation_criteria.actions}
    assert tool is None or tool in names
