"""Reference agent and scripted user in one world: can the task be solved by talking?

played = converse(task, world.open(task.records), gold_delta(world, task))
played.problem            # "" where it is solved; else why not
"""

from __future__ import annotations

from typing import NamedTuple

from sentinel.env.overlay import Delta, Session
from sentinel.env.scoring import score
from sentinel.env.users import ScriptedUser, ends
from sentinel.proposer.natural.agent import Agent
from sentinel.proposer.natural.understood import Lost
from sentinel.records import Task, ToolCall

TURNS = 60
"""Actions after which a conversation is given up."""


class Line(NamedTuple):
    """Something that was said or called."""

    speaker: str
    """`user`, `agent`, `call` or `tool`."""
    text: str


class Conversation(NamedTuple):
    """A conversation and what came of it."""

    lines: list[Line]
    problem: str
    """Empty where the task was solved."""


def converse(task: Task, session: Session, gold: Delta) -> Conversation:
    """Play the task with the reference agent and the scripted user; `session` is its world, `gold` the goal."""
    user = ScriptedUser(task.scenario)
    lines = [Line("user", user.opening())]
    dialogue, answer = Agent().talk(lines[0].text), None
    try:
        while not ends(lines[-1].text) and len(lines) < 2 * TURNS:
            action = dialogue.send(answer) if answer is not None else next(dialogue)
            if isinstance(action, ToolCall):
                answer = session.call(action).text
                lines += [Line("call", f"{action.name}({action.arguments})"), Line("tool", answer)]
            else:
                answer = user.reply(action)
                lines += [Line("agent", action), Line("user", answer)]
    except Lost as lost:
        return Conversation(lines, f"the agent is lost: {lost}")
    except StopIteration:
        return Conversation(lines, "the agent has nothing more to say, and the user goes on")
    said = [line.text for line in lines if line.speaker == "agent"]
    reward = score(task, session.delta(), gold, said)
    if not ends(lines[-1].text):
        return Conversation(lines, "the conversation does not end")
    return Conversation(lines, "" if reward.total == 1.0 else f"it ends otherwise: {reward}")
