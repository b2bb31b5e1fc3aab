"""Words by a language model: the grammar's request worded anew, and held against the gold answer.

    rewriter = Rewriter(open_chat(profile.endpoints, "proposer", model=…), world, memory)
    verdict = rewriter.reword(task, seed)        # the task with other words, or a Rejection

The model sees a draft as data and answers in a fixed shape. What it writes must name nothing that the draft does not
name, keep to itself what the user withholds, and still determine every argument of the gold answer; else it is told
why, a bounded number of times, and then the candidate is dropped. Gold answer, known facts and the rules of the
scenario are never the model's. The scripted user keeps the grammar's words; LLM users are given these.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, StringConstraints

from sentinel.env.overlay import World
from sentinel.env.user_faults import identifiers
from sentinel.llm.chat import Chat, ChatError, Said
from sentinel.llm.quoting import quoted
from sentinel.llm.structured import Memory, ask_for
from sentinel.proposer.gates import Bench, communicate, determined, wording
from sentinel.proposer.leakage import Manifest
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Scenario, Task

ROUNDS = 2
"""Versions that are asked for, at most."""
MAX_TOKENS = 1024
TEMPERATURE = 0.8
_NOTHING = Manifest(entities=False, solutions=(), tasks=())


class Rewording(BaseModel):
    """What the model answers."""

    model_config = ConfigDict(extra="forbid")

    reason_for_call: Annotated[str, StringConstraints(strip_whitespace=True, min_length=20, max_length=3000)]
    persona: Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)] = ""


class Rewriter:
    """Words tasks of one world."""

    def __init__(self, chat: Chat, world: World, memory: Memory | None = None, instruction: str = "") -> None:
        self._chat, self._world, self._memory, self._instruction = chat, world, memory, instruction

    def reword(self, task: Task, seed: int) -> Task | Rejection:
        """The task in other words, or why there are none.

        Raises:
            StageError: the server refuses this role altogether.
        """
        rejection = Rejection(Reason.no_rewording)
        for number in range(ROUNDS):
            said = [Said("user", self._prompt(task, rejection.detail))]
            try:
                found = ask_for(
                    Rewording,
                    self._chat,
                    said,
                    seed=(seed + number) % 2**31,
                    max_tokens=MAX_TOKENS,
                    temperature=TEMPERATURE,
                    memory=self._memory,
                )
            except ChatError as error:
                return Rejection(Reason.no_rewording, str(error))
            worded = _worded(task, found)
            if (refused := self._fault(task, worded)) is None:
                return worded
            rejection = refused
        return rejection

    def _prompt(self, task: Task, refused: str) -> str:
        scenario = task.scenario
        draft = {"reason_for_call": scenario.reason_for_call, "persona": ""}
        facts = [fact for intent in scenario.intents for fact in intent.facts.values()]
        return _template().render(
            draft=quoted(draft),
            withheld=quoted(facts) if facts else "",
            instruction=quoted(self._instruction) if self._instruction else "",
            refused=quoted(refused) if refused else "",
        )

    def _fault(self, task: Task, worded: Task) -> Rejection | None:
        """What is wrong with the new words, read without the grammar's."""
        new, old = worded.scenario.reason_for_call, _all_words(task.scenario)
        if added := identifiers(new) - identifiers(old):
            return Rejection(Reason.contradicts_gold, f"the draft does not name {', '.join(sorted(added))}")
        hidden = " ".join(fact for intent in task.scenario.intents for fact in intent.facts.values())
        if revealed := identifiers(new) & (identifiers(hidden) - identifiers(task.scenario.reason_for_call)):
            return Rejection(Reason.reveals_withheld, f"{', '.join(sorted(revealed))} is told only when asked for")
        bare = worded.model_copy(update={"scenario": worded.scenario.model_copy(update={"intents": ()})})
        bench = Bench(self._world, _NOTHING)
        return wording(bare, bench) or communicate(bare, bench) or determined(bare, bench)


def _all_words(scenario: Scenario) -> str:
    return " ".join((scenario.reason_for_call, scenario.known_info, scenario.instructions))


def _worded(task: Task, found: Rewording) -> Task:
    rules = task.scenario.instructions
    changes = {"reason_for_call": found.reason_for_call, "instructions": f"{found.persona} {rules}".strip()}
    knobs = {**task.knobs, "worded": "llm"}
    return task.model_copy(update={"scenario": task.scenario.model_copy(update=changes), "knobs": knobs})


@cache
def _template() -> Template:
    text = resources.files("sentinel.proposer").joinpath("prompts/rewrite.md.j2").read_text(encoding="utf-8")
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False).from_string(text)
