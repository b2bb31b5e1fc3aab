"""The scripted user: tells what it is asked, confirms, changes nothing by itself, stops only when the agent is through.

    user = ScriptedUser(task.scenario)
    user.opening()                                 # "I want to cancel order #W49. …"
    user.reply("What is the reason?")              # "I no longer need it."
    user.reply("It is done. Is there anything else?")   # "###STOP###"

Any user is an object with `opening` and `reply` (`User`); one played by a model is `sentinel.env.llm_user`. A user that
misbehaves raises `UserFault`, one whose server is away `UserUnavailable`: neither says anything about the agent.

It understands a question by key words (`listen` in `vocabulary.yaml`), so free text of a large model works as well as
the reference agent's sentences. It has no random state: equal conversations get equal answers. What it takes back when
asked to confirm, and what it asks for when refused, it says once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from sentinel.env.vocabulary import user_says, vocabulary
from sentinel.records import Scenario

STOP, TRANSFER, OUT_OF_SCOPE = "###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###"
"""tau2's three ways of a user to end a conversation."""
FAULT = "user fault: "
"""Begins the message that notes a fault of the user in a trajectory."""
PATIENCE = 2
"""Messages it does not understand before it hangs up."""


class User(Protocol):
    """Whoever talks to the policy."""

    def opening(self) -> str:
        """The first message."""
        ...

    def reply(self, text: str) -> str:
        """The answer to a message of the agent; it `ends` the conversation or not."""
        ...


class FaultKind(StrEnum):
    """What a user simulator did wrong."""

    empty = "empty"
    cut_off = "cut_off"
    stopped_early = "stopped_early"
    left_without_transfer = "left_without_transfer"
    revealed = "revealed"
    invented = "invented"
    repeated = "repeated"


class UserFault(Exception):
    """The user simulator broke its own rules; the episode says nothing about the agent."""

    def __init__(self, kind: FaultKind, said: str) -> None:
        super().__init__(kind.value)
        self.kind = kind
        self.said = said
        """The message that shows it."""


class UserUnavailable(Exception):
    """The user simulator cannot speak, through nobody's fault in the conversation."""


def ends(text: str) -> bool:
    """Whether a user's message ends the conversation."""
    return any(token in text for token in (STOP, TRANSFER, OUT_OF_SCOPE))


class ScriptedUser:
    """One user in one episode."""

    def __init__(self, scenario: Scenario) -> None:
        if not scenario.intents:
            raise ValueError("a scripted user needs a scenario with intents; benchmark tasks need an LLM user")
        self._scenario = scenario
        self._corrections = [intent.correction for intent in scenario.intents if intent.correction]
        self._resigned = [intent.if_refused for intent in scenario.intents if intent.if_refused]
        self._puzzled = 0

    def opening(self) -> str:
        """The first message: all requests, without what the user withholds until asked."""
        requests = f" {user_says('also')} ".join(intent.request for intent in self._scenario.intents)
        return f"{requests} {self._scenario.identity}" if self._scenario.identity_volunteered else requests

    def reply(self, text: str) -> str:
        """Its answer to a message of the agent; `STOP` ends the conversation."""
        match _heard(text):
            case "refused" if self._resigned:
                return self._resigned.pop(0)
            case "confirm" if self._corrections:
                return self._corrections.pop(0)
            case "transferred" | "refused" | "finished":
                return STOP
            case "confirm":
                agreed = all(intent.confirms for intent in self._scenario.intents)
                return user_says("agree" if agreed else "decline")
            case "identity":
                return self._scenario.identity
            case None:
                return self._shrug()
            case fact:
                told = [intent.facts[fact] for intent in self._scenario.intents if fact in intent.facts]
                return " ".join(told) if told else self._shrug()

    def _shrug(self) -> str:
        self._puzzled += 1
        return STOP if self._puzzled > PATIENCE else user_says("puzzled")


def _heard(text: str) -> str | None:
    """What the agent's message is about."""
    lowered = text.lower().replace("’", "'")
    return next((topic for topic, words in vocabulary()["listen"].items() if any(w in lowered for w in words)), None)
