"""The Controller's language model on a real server that holds a small model to a JSON Schema: the wire, not the wit.

SmolLM2 has nothing sensible to say about failures; what it says must have the shape, and none of it may change a count.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.artifacts import read_jsonl
from sentinel.controller.claims import Reading
from sentinel.llm.chat import Chat, Patience, Said
from sentinel.llm.structured import ATTEMPTS, ask_for
from sentinel.records import Pattern
from sentinel.spec.profile import ProfileSpec
from tests.unit.test_controller_stage import directive, played, spec_of, stage
from tests.vllm.conftest import MODEL, Server

pytestmark = pytest.mark.timeout(2400)

WRONG = {"cancel/no_reason": 3}
QUESTION = [
    Said("system", "You analyse conversations."),
    Said("user", "The agent forgot to cancel the order at turn 4."),
]


@pytest.fixture
def chat(server: Server) -> Iterator[Chat]:
    chat = Chat(server.url, MODEL, patience=Patience(attempts=1, request_seconds=900.0))
    yield chat
    chat.close()


def test_a_small_model_is_held_to_the_schema(chat: Chat) -> None:
    print(ask_for(Reading, chat, QUESTION, seed=1, max_tokens=400))
    assert chat.budget.spent["calls"] < ATTEMPTS, "a small model may ramble past the end of its tokens once"


def test_without_a_schema_it_has_another_shape(chat: Chat) -> None:
    answer = chat.ask(QUESTION, temperature=0.0, seed=1, max_tokens=64)
    with pytest.raises(ValueError, match="Reading"):
        Reading.model_validate_json(answer.text)


def test_the_control_stage_asks_it_and_keeps_the_counts(
    server: Server, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    profile = ProfileSpec.model_validate({"endpoints": {"controller": {"url": server.url}}}, strict=False)
    spec = spec_of(root, type="llm", model=MODEL, answer_tokens=400)
    counted = stage(tmp_path / "counted", spec_of(root), 1, played(WRONG))
    asked = stage(tmp_path / "asked", spec, 1, played(WRONG), profile=profile)
    again = stage(tmp_path / "again", spec, 1, played(WRONG), profile=profile)
    review = directive(asked).review
    assert review is not None
    print(review.model_dump_json(indent=1))
    assert (review.model, review.skipped) == (MODEL, 0)
    assert review.stands or review.reason.startswith("the patterns stand as counted")
    before, after = (read_jsonl(folder / "patterns.jsonl", Pattern) for folder in (counted, asked))
    assert sum(pattern.support for pattern in after) == sum(pattern.support for pattern in before) == 6
    assert {p.id for p in after} | {name for p in after for name in p.merged} == {p.id for p in before}
    for path in asked.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), "remembered, not asked again"
