"""Answers of a given shape from a server that has its own ideas: checked, asked again, remembered, never obeyed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from sentinel.llm.chat import Budget, Chat, ChatError, ChatFault, Said
from sentinel.llm.quoting import quoted
from sentinel.llm.structured import ATTEMPTS, Memory, ask_for
from tests.contract.servers import Behaviour, Server, saying, serving
from tests.contract.test_chat import LASTING

QUESTION = [Said("user", "How many?")]


class Number(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int


@contextmanager
def asking(behaviour: Behaviour, budget: Budget | None = None) -> Iterator[tuple[Server, Chat]]:
    with serving(behaviour) as server:
        chat = Chat(server.url, "m", patience=LASTING, budget=budget)
        try:
            yield server, chat
        finally:
            chat.close()


def ask(chat: Chat, memory: Memory | None = None) -> int:
    return ask_for(Number, chat, QUESTION, seed=3, max_tokens=50, memory=memory).number


def test_the_schema_is_sent_and_the_answer_parsed() -> None:
    with asking(saying('{"number": 7}')) as (server, chat):
        assert ask(chat) == 7
    sent = server.asked[0].body["response_format"]["json_schema"]
    assert sent["strict"] is True
    assert sent["schema"] == Number.model_json_schema()


@pytest.mark.parametrize("wrong", ["seven", '{"number": "x"}', '{"number": 7, "more": 1}', "[7]", "", '{"number": 7'])
def test_what_does_not_fit_is_asked_again_with_the_complaint(wrong: str) -> None:
    with asking(saying(wrong, '{"number": 7}')) as (server, chat):
        assert ask(chat) == 7
    first, second = (asked.body for asked in server.asked)
    assert (first["seed"], second["seed"]) == (3, 4)
    assert second["messages"][:1] == first["messages"]
    assert second["messages"][-1]["content"].startswith("This does not fit the schema: ")


def test_it_is_asked_a_bounded_number_of_times() -> None:
    with asking(saying("no")) as (server, chat):
        with pytest.raises(ChatError, match="3 answers that do not fit") as caught:
            ask(chat)
        assert len(server.asked) == ATTEMPTS
    assert caught.value.fault is ChatFault.malformed


def test_the_budget_holds_for_attempts_too() -> None:
    with asking(saying("no"), Budget(calls=2)) as (server, chat):
        with pytest.raises(ChatError) as caught:
            ask(chat)
        assert len(server.asked) == 2
    assert caught.value.fault is ChatFault.budget


def test_an_answer_is_asked_for_once_and_remembered_by_content(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "cache")
    with asking(saying("no", '{"number": 7}')) as (server, chat):
        assert [ask(chat, memory) for _ in range(3)] == [7, 7, 7]
        assert len(server.asked) == 2
        assert ask_for(Number, chat, QUESTION, seed=9, max_tokens=50, memory=memory).number == 7
        assert len(server.asked) == 3


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"text": 5}'])
def test_a_broken_memory_is_no_memory(tmp_path: Path, broken: str) -> None:
    memory = Memory(tmp_path)
    with asking(saying('{"number": 7}')) as (server, chat):
        ask(chat, memory)
        for path in tmp_path.iterdir():
            path.write_text(broken)
        assert ask(chat, memory) == 7
        assert len(server.asked) == 2


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_quoted_is_json_on_one_line_without_markup(value: object) -> None:
    text = quoted(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&`\n\r\u2028\u2029")
