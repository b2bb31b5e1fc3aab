"""The user played by a language model, under tau2's own guidelines for simulators.

    new_user = open_users(spec.environment.user, profile.endpoints)
    user = new_user(task, seed, unfinished)
    user.opening()                          # "Hi, I would like to exchange a water bottle …"

The guidelines are read from the installed tau2 package and get what they lack: not to stop before the agent has
confirmed completion. Every message is held against `sentinel.env.user_faults`; a broken rule raises `UserFault`, a
server that cannot be made to answer `UserUnavailable`. Each turn has a seed of its own, derived from the episode's, so
trials differ and equal trials ask equally. A message takes one blocking call: engines advance conversations in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sentinel.env.retail import RETAIL_DATA_DIR
from sentinel.env.user_faults import find_fault
from sentinel.env.users import FaultKind, UserFault, UserUnavailable
from sentinel.llm.chat import Answer, ChatError, Said, open_chat
from sentinel.records import Scenario, Task
from sentinel.seeds import derive
from sentinel.spec.models import LlmUser as Settings
from sentinel.spec.profile import Endpoint, LlmRole

GREETING = "Hi! How can I help you today?"
"""What the agent says first in tau2; only the user hears it."""
MAX_TOKENS = 4096
"""Of one message, reasoning included."""
_GUIDELINES: Path = RETAIL_DATA_DIR.parents[1] / "user_simulator" / "simulation_guidelines.md"
_SECTIONS = (
    ("Reason for call", "reason_for_call"),
    ("Known info", "known_info"),
    ("Unknown info", "unknown_info"),
    ("Task instructions", "instructions"),
)


class Model(Protocol):
    """What plays the user (`sentinel.llm.chat.Chat`)."""

    def ask(self, messages: Sequence[Said], *, temperature: float, seed: int, max_tokens: int) -> Answer:
        """One answer, or `ChatError`."""
        ...


class LlmUser:
    """One user in one episode."""

    def __init__(
        self, chat: Model, scenario: Scenario, *, temperature: float, seed: int, unfinished: Callable[[], bool]
    ) -> None:
        """A user that has not spoken yet.

        Args:
            chat: the model that plays it.
            scenario: what it knows and wants.
            temperature: of sampling.
            seed: the episode's.
            unfinished: whether something that it wants is still undone.
        """
        self._chat, self._scenario, self._unfinished = chat, scenario, unfinished
        self._system = Said("system", system_prompt(scenario))
        self._temperature, self._seed = temperature, seed
        self._heard: list[str] = []
        self._said: list[str] = []

    def opening(self) -> str:
        """The first message, in answer to the agent's greeting."""
        return self.reply(GREETING)

    def reply(self, text: str) -> str:
        """The answer to a message of the agent.

        Raises:
            UserFault: The answer breaks a rule.
            UserUnavailable: There is no answer.
        """
        self._heard.append(text)
        seed = derive(self._seed, "user", len(self._said)) % 2**31
        try:
            answer = self._chat.ask(
                self._conversation(), temperature=self._temperature, seed=seed, max_tokens=MAX_TOKENS
            )
        except ChatError as error:
            raise UserUnavailable(f"the user's model failed: {error}") from error
        self._said.append(answer.text)
        fault = find_fault(self._scenario, self._heard, self._said, self._unfinished)
        if fault := fault if answer.complete else FaultKind.cut_off:
            raise UserFault(fault, answer.text)
        return answer.text

    def _conversation(self) -> list[Said]:
        """The roles turned round: to the model, the agent is the user."""
        messages = [self._system]
        for number, heard in enumerate(self._heard):
            messages.append(Said("user", heard))
            messages += [Said("assistant", said) for said in self._said[number : number + 1]]
        return messages


def open_users(
    settings: Settings, endpoints: Mapping[LlmRole, Endpoint]
) -> Callable[[Task, int, Callable[[], bool]], LlmUser]:
    """Makes the users of a stage's episodes, over one connection pool."""
    chat = open_chat(endpoints, "user", model=settings.model)

    def new_user(task: Task, seed: int, unfinished: Callable[[], bool]) -> LlmUser:
        return LlmUser(chat, task.scenario, temperature=settings.temperature, seed=seed, unfinished=unfinished)

    return new_user


def system_prompt(scenario: Scenario) -> str:
    """tau2's guidelines, our addition, and the scenario in the form tau2 gives it."""
    folder = Path(__file__).parent / "prompts"
    templates = Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined, autoescape=False)
    prompt: str = templates.get_template("user.md.j2").render(guidelines=_guidelines(), scenario=_rendered(scenario))
    return prompt


@cache
def _guidelines() -> str:
    return _GUIDELINES.read_text(encoding="utf-8").strip()


def _rendered(scenario: Scenario) -> str:
    parts = ["Domain: retail"]
    for title, name in _SECTIONS:
        text: str = getattr(scenario, name)
        if text:
            parts.append(f"{title}:\n" + indent(text, "\t"))
    return "\n".join(parts)
