"""Answers of a given shape: constrained by a JSON Schema, checked, asked again a bounded number of times, remembered.

    memory = Memory(Path(".sentinel/cache/chat"))
    answer = ask_for(Themes, chat, messages, seed=7, max_tokens=2048, memory=memory)    # a Themes

The server is asked to hold the model to the schema; whether it did is checked here all the same, and what does not fit
is shown to the model with the complaint. Answers are kept by the content of their question, so that a stage that is run
again asks nothing twice and writes the same bytes; a remembered answer counts in the budget like a new one, or it would
last longer the second time. Foreign text belongs in a prompt only as `sentinel.llm.quoting.quoted` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from sentinel.artifacts import write_json
from sentinel.llm.chat import Answer, Chat, ChatError, ChatFault, Said
from sentinel.records import digest

T = TypeVar("T", bound=BaseModel)
ATTEMPTS = 3
"""Questions for one answer that fits."""
COMPLAINT = 500
"""Characters of an answer, and of what is wrong with it, that are shown to the model."""


class Memory(NamedTuple):
    """Answers by the content of their question, one file each; any folder, which may be deleted at any time."""

    folder: Path

    def get(self, key: str) -> Answer | None:
        """The answer that was kept; `None` where there is none, or only part of one."""
        try:
            kept = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        match kept:
            case {"text": str(text), "tokens": int(tokens)}:
                return Answer(text, True, tokens)
        return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer."""
        write_json(self.folder / f"{key}.json", {"text": answer.text, "tokens": answer.tokens})


def ask_for(
    shape: type[T],
    chat: Chat,
    messages: Sequence[Said],
    *,
    seed: int,
    max_tokens: int,
    temperature: float = 0.0,
    memory: Memory | None = None,
) -> T:
    """An answer of this shape.

    Args:
        shape: what the answer must be; its JSON Schema constrains the server.
        chat: the model.
        messages: the conversation; foreign text in it quoted.
        seed: of the first attempt; later ones count up.
        max_tokens: of one answer.
        temperature: of sampling.
        memory: where answers are kept and looked up first.

    Raises:
        ChatError: no answer, or (`malformed`) none that fits the shape.
        StageError: the server refuses this role altogether.
    """
    schema = shape.model_json_schema()
    said, wrong = list(messages), ""
    for attempt in range(ATTEMPTS):
        answer = _remembered(chat, said, temperature, seed + attempt, max_tokens, schema, memory)
        try:
            if not answer.complete:
                raise ValueError(f"it has no end within {max_tokens} tokens")
            return shape.model_validate_json(answer.text)
        except ValueError as error:
            wrong = _complaint(error)
        said = [*messages, Said("assistant", answer.text[:COMPLAINT]), Said("user", f"{wrong} Answer again.")]
    raise ChatError(ChatFault.malformed, f"{ATTEMPTS} answers that do not fit their schema; the last: {wrong}")


def _remembered(
    chat: Chat,
    said: Sequence[Said],
    temperature: float,
    seed: int,
    max_tokens: int,
    schema: Mapping[str, Any],
    memory: Memory | None,
) -> Answer:
    key = digest([chat.model, [list(message) for message in said], temperature, seed, max_tokens, dict(schema)])
    if memory is not None and (kept := memory.get(key)) is not None:
        chat.budget.request()
        chat.budget.answered(kept.tokens)
        return kept
    answer = chat.ask(said, temperature=temperature, seed=seed, max_tokens=max_tokens, schema=schema)
    if memory is not None and answer.complete:
        memory.put(key, answer)
    return answer


def _complaint(error: ValueError) -> str:
    """What is wrong, without repeating what the model wrote."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "its start"
        return f"This does not fit the schema: at {where}: {first['msg']}."[:COMPLAINT]
    return f"This does not fit the schema: {error}."[:COMPLAINT]
