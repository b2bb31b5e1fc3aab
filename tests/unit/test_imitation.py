"""Stored conversations become the tokens that playing them made; only the agent's are to be learnt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sentinel.artifacts import write_jsonl
from sentinel.errors import ArtifactError
from sentinel.llm.templates import END, THOUGHT, Qwen3Thinking
from sentinel.records import Message, Outcome, Role, VoidReason
from sentinel.rollout.demonstrator import expert
from sentinel.rollout.imitation import Flaw, imitated, read_stories
from tests.unit.builders import acted, arena, made


@pytest.mark.parametrize("name", ["cancel/no_reason", "two/return_cancel", "refuse/bad_reason", "transfer/plain"])
def test_an_episode_is_copied_token_by_token(name: str) -> None:
    task, where = made(name), arena()
    played = acted(task, expert(task), where)
    (copied,) = imitated(played.trajectory.messages, where)
    original = played.tokens
    length = len(original.ids)
    assert copied.ids[:length].tolist() == original.ids.tolist()
    assert copied.sampled[:length].tolist() == original.sampled.tolist()
    assert not copied.sampled[length:].any()  # the words with which the user leaves
    assert not copied.logprobs.any()


def test_a_file_of_ours_says_what_to_imitate(tmp_path: Path) -> None:
    task = made("cancel/no_reason")
    won = acted(task, expert(task), arena()).trajectory
    lost = won.model_copy(update={"outcome": Outcome.failure})
    void = won.model_copy(update={"outcome": Outcome.void, "void_reason": VoidReason.infrastructure})
    write_jsonl(tmp_path / "trajectories.jsonl", [won, lost, void])
    where, stories = read_stories(tmp_path / "trajectories.jsonl")
    assert where.hash == task.world
    assert stories[0] == ("line 1", task, won.messages, None, None)
    assert [(story.flaw, story.void) for story in stories[1:]] == [
        (Flaw.failed, None),
        (Flaw.failed, VoidReason.infrastructure),
    ]


def test_a_file_of_neither_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ArtifactError, match="no `simulations` in it"):
        read_stories(tmp_path / "x.json")


def said(role: Role, content: str, turn: int, reasoning: str = "") -> Message:
    return Message(role=role, content=content, turn=turn, reasoning=reasoning)


TALK = (
    said(Role.user, "hello", 0),
    said(Role.assistant, "who is it", 1, "I must ask"),
    said(Role.user, "it is me", 1),
    said(Role.assistant, "fine", 2, "good"),
)


def test_where_history_is_rewritten_each_stretch_is_a_sample_with_its_reasoning() -> None:
    where = arena()
    where.template = Qwen3Thinking()
    first, second = imitated(TALK, where)
    words = [where.decode(tokens.ids[tokens.sampled].tolist()) for tokens in (first, second)]
    assert words == [f"I must ask\n{THOUGHT}\n\nwho is it{END}", f"good\n{THOUGHT}\n\nfine{END}"]
    context = where.decode(second.ids[~second.sampled].tolist())
    assert "who is it" in context
    assert "I must ask" not in context


def test_what_does_not_fit_is_cut_before_its_turn() -> None:
    where = arena()
    (whole,) = imitated(TALK, where)
    turns = int((np.diff(whole.sampled.astype(int)) == 1).sum())
    assert turns == 2
    where = arena(max_context=len(whole.ids) - 1)
    (cut,) = imitated(TALK, where)
    assert 0 < int(cut.sampled.sum()) < int(whole.sampled.sum())


def test_a_greeting_and_notes_are_not_learnt() -> None:
    greeting, note = said(Role.assistant, "how can I help", 0), said(Role.system, "a fault", 2)
    (plain,) = imitated(TALK, arena())
    (more,) = imitated((greeting, *TALK[:3], note, TALK[3]), arena())
    assert len(plain.ids) == len(more.ids)
    assert imitated((greeting,), arena()) == ()


def test_tau2s_own_results_can_be_imitated(root: Path) -> None:
    file = root.parent / "shared" / "data" / "tau2-retail-toolorchestra.json"
    if not file.exists():
        pytest.skip("needs ../shared/data")
    stories = read_stories(file).episodes
    assert Counter(story.flaw for story in stories) == {None: 96, Flaw.failed: 18}
    good = [story.messages for story in stories if story.flaw is None]
    samples = [tokens for messages in good[:20] for tokens in imitated(messages, arena())]
    assert len(samples) == 20
    assert all(tokens.sampled.any() and not tokens.sampled[0] for tokens in samples)
