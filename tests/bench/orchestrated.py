"""Our reference agent and scripted user under tau2's own Orchestrator, scored by tau2's own evaluator."""

from __future__ import annotations

from typing import Any

from sentinel.env.official import Judge, official_task
from sentinel.env.retail import quiet
from sentinel.env.users import ScriptedUser, ends
from sentinel.proposer.natural.agent import Agent
from sentinel.records import Task, ToolCall

with quiet():
    from tau2.agent.base import LocalAgent
    from tau2.data_model import message as tau2_message
    from tau2.orchestrator.orchestrator import Orchestrator
    from tau2.user.base import BaseUser, UserState

STEPS = 200
"""tau2 counts every message and every call."""


class ReferenceAgent(LocalAgent):  # type: ignore[misc]
    """The reference agent as tau2 drives agents; its state is the dialogue."""

    def get_init_state(self, message_history: Any = None) -> list[Any]:
        """No dialogue yet."""
        return []

    def generate_next_message(self, message: Any, state: list[Any]) -> tuple[Any, list[Any]]:
        """The next action, in answer to what the user said or the tool answered."""
        if not state:
            state.append(Agent().talk(message.content))
            action = next(state[0])
        else:
            action = state[0].send(message.content)
        if isinstance(action, ToolCall):
            call = tau2_message.ToolCall(id="0", name=action.name, arguments=action.arguments)
            return tau2_message.AssistantMessage(role="assistant", tool_calls=[call]), state
        return tau2_message.AssistantMessage(role="assistant", content=action), state


class Scripted(BaseUser):  # type: ignore[misc]
    """The scripted user as tau2 drives users."""

    def __init__(self, task: Task) -> None:
        super().__init__(instructions=None, llm=None, llm_args=None)
        self._user, self._spoken = ScriptedUser(task.scenario), False

    def get_init_state(self, message_history: Any = None) -> UserState:
        """Nothing was said."""
        return UserState(system_messages=[], messages=[])

    def generate_next_message(self, message: Any, state: UserState) -> tuple[Any, UserState]:
        """Opens, then answers."""
        text = self._user.reply(message.content) if self._spoken else self._user.opening()
        self._spoken = True
        return tau2_message.UserMessage(role="user", content=text), state

    @classmethod
    def is_stop(cls, message: Any) -> bool:
        """Whether the message ends the conversation."""
        return message.content is not None and ends(message.content)

    def set_seed(self, seed: int) -> None:
        """Nothing is random."""


def conduct(task: Task, judge: Judge) -> tuple[float, str]:
    """tau2's reward, and the JSON of the conversation."""
    environment = judge.environment(task)
    agent = ReferenceAgent(tools=environment.get_tools(), domain_policy="")
    orchestrator = Orchestrator(
        "retail", agent, Scripted(task), environment, official_task(task), max_steps=STEPS, max_errors=3
    )
    run = orchestrator.run()
    return judge.conducted(task, run), run.model_dump_json()
