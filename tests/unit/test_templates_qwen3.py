"""Qwen3-Thinking: what the policy reads is what Qwen's own chat template renders, and each segment is what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from sentinel.env.tau2 import policy_text, tool_schemas
from sentinel.llm.engine import Finish, Rewritten, Sample
from sentinel.llm.templates import END, PAD, START, THINK, Qwen3Thinking, qwen3_system_prompt, render_call
from sentinel.records import Message, Outcome, Role, Task, ToolCall, Trajectory
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Action, expert
from sentinel.rollout.episode import Assignment, Episode
from tests.unit.builders import ROOMY, made, world

TEMPLATE = Qwen3Thinking(qwen3_system_prompt(policy_text(), tool_schemas()))
CALL = ToolCall(name="get_order_details", arguments={"order_id": "#W10", "note": "naïve “quotes”"})


def byte_pairs() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer as Qwen's, trained on the little that is said here."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator([policy_text()], trainer)
    backend.add_special_tokens([AddedToken(token, special=True) for token in (PAD, START, END)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=END)


TOKENIZER = byte_pairs()


@pytest.fixture(scope="module")
def official() -> str:
    """Qwen3's published chat template, as TRL ships it."""
    if not (trl := find_spec("trl")) or not trl.origin:
        pytest.skip("trl, which ships Qwen's chat templates, is not installed")
    return (Path(trl.origin).parent / "chat_templates" / "qwen3.jinja").read_text()


def arena() -> Arena:
    return Arena(world(), TEMPLATE, TOKENIZER, "json", max_turns=30, max_context=ROOMY)


def wire(messages: Sequence[Message], thoughts: Sequence[str]) -> list[dict[str, Any]]:
    """A trajectory as OpenAI messages, with the reasoning of each assistant turn."""
    reasoning = iter(thoughts)
    found: list[dict[str, Any]] = [{"role": "system", "content": policy_text()}]
    for message in messages:
        entry: dict[str, Any] = {"role": message.role.value, "content": message.content}
        if message.role is Role.assistant:
            entry["reasoning_content"] = next(reasoning)
            entry["tool_calls"] = [{"function": call.model_dump()} for call in message.tool_calls]
        found.append(entry)
    return found


def rendered(template: str, messages: list[dict[str, Any]]) -> str:
    """The prompt in Qwen's rendering; the Thinking models open the reasoning themselves."""
    text: str = TOKENIZER.apply_chat_template(
        messages, tools=tool_schemas(), chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return text + THINK


class Told:
    """Plays an episode turn by turn, as an engine would, and keeps what it saw."""

    def __init__(self, task: Task) -> None:
        self.where = arena()
        self.episode = Episode(Assignment(task, 0, 7), self.where)
        self.context = list(self.episode.start())
        self.turns: list[tuple[list[int], list[int]]] = []
        self.rewritten = 0
        self.thoughts: list[str] = []

    def turn(self, text: str, thought: str) -> list[int] | None:
        self.thoughts.append(thought)
        ids = list(self.where.encode(f"{thought}\n</think>\n\n{text}{END}"))
        self.turns.append((self.context, ids))
        new = self.episode.advance(Sample(ids, [-0.5] * len(ids), Finish.stop, self.context))
        self.rewritten += isinstance(new, Rewritten)
        self.context = list(new or []) if isinstance(new, Rewritten) else [*self.context, *ids, *(new or [])]
        return new

    def play(self, actions: Sequence[Action]) -> None:
        for number, action in enumerate(actions):
            self.turn(action if isinstance(action, str) else render_call(action), f"Step {number}.\nLet me see.")

    @property
    def prompt(self) -> str:
        return self.where.decode(self.context)


@pytest.mark.parametrize("condition", ["cancel/no_reason", "return/two_items"])
def test_every_prompt_is_the_one_of_the_published_template(official: str, condition: str) -> None:
    told = Told(task := made(condition))
    for action in expert(task):
        messages = told.episode.played("", 0, 0).trajectory.messages
        assert told.prompt == rendered(official, wire(messages, told.thoughts))
        told.play([action])
    assert told.episode.played("", 0, 0).trajectory.outcome is Outcome.success


def test_calls_in_parallel_with_words_before_them_are_rendered_as_published(official: str) -> None:
    told = Told(made("cancel/plain"))
    told.turn(f"One moment.\n{render_call(CALL)}\n{render_call(CALL)}", "Two at once.")
    told.turn("Sorry. Which order?", "I have to ask.")
    messages = wire(told.episode.played("", 0, 0).trajectory.messages, told.thoughts)
    messages[2]["content"] = "One moment."
    assert told.rewritten == 1
    assert told.prompt == rendered(official, messages)


def test_reasoning_stays_while_tools_are_called_and_goes_when_the_user_speaks() -> None:
    told = Told(made("cancel/no_reason"))
    told.turn(render_call(CALL), "Secret one.")
    assert told.rewritten == 0
    assert "Secret one." in told.prompt
    told.turn("What is the reason?", "Secret two.")
    assert told.rewritten == 1
    assert "Secret" not in told.prompt
    assert "get_order_details" in told.prompt
    assert told.prompt.endswith(f"assistant\n{THINK}")


def test_each_segment_is_what_the_engine_saw_and_every_sampled_token_is_in_one() -> None:
    told = Told(task := made("cancel/no_reason"))
    told.play(expert(task))
    played = told.episode.played("", 0, 0)
    assert len(played.samples) == told.rewritten + 1 > 2
    assert played.trajectory.counts.tokens == sum(len(tokens.ids) for tokens in played.samples)
    seen = iter(told.turns)
    for tokens in played.samples:
        sampled = 0
        while sampled < tokens.sampled.sum():
            prompt, ids = next(seen)
            assert tokens.ids.tolist()[: len(prompt) + len(ids)] == prompt + ids
            assert tokens.sampled[len(prompt) : len(prompt) + len(ids)].all()
            sampled += len(ids)
        assert tokens.sampled.sum() == sampled
        assert (tokens.logprobs == -0.5 * tokens.sampled).all()
    assert next(seen, None) is None
    with pytest.raises(ValueError, match="too many values"):
        _ = played.tokens


def test_a_prompt_is_encoded_as_one_text_would_be() -> None:
    told = Told(task := made("return/two_items"))
    told.play(expert(task)[:6])
    assert told.where.encode_prompt(told.prompt) == TOKENIZER.encode(told.prompt, add_special_tokens=False)


def test_reasoning_is_no_message() -> None:
    parsed = TEMPLATE.parse(f"The user says <tool_call> is funny.\n</think>\n\nHello!{END}")
    assert parsed == ("Hello!", (), None, "The user says <tool_call> is funny.")
    assert TEMPLATE.parse(TEMPLATE.turn("Hello!")) == ("Hello!", (), None, "")
    assert TEMPLATE.parse(TEMPLATE.turn(render_call(CALL))).calls == (CALL,)


def test_reasoning_is_kept_beside_the_message_and_not_written_where_there_is_none() -> None:
    told = Told(made("cancel/plain"))
    for text in (f"Who is it?\n</think>\n\n{render_call(CALL)}{END}", f"Hm.\n</think>\n\nHello!{END}"):
        ids = list(told.where.encode(text))
        told.episode.advance(Sample(ids, [-0.5] * len(ids), Finish.stop))
    trajectory = told.episode.played("", 0, 0).trajectory
    turns = [message for message in trajectory.messages if message.role is Role.assistant]
    assert [(m.content, m.tool_calls, m.reasoning) for m in turns] == [
        ("", (CALL,), "Who is it?"),
        ("Hello!", (), "Hm."),
    ]
    written = [message.model_dump(mode="json") for message in trajectory.messages]
    assert [message.get("reasoning") for message in written if message["role"] == "assistant"] == ["Who is it?", "Hm."]
    assert all("reasoning" not in message for message in written if message["role"] != "assistant")
    assert Trajectory.model_validate_json(trajectory.model_dump_json()) == trajectory


@pytest.mark.parametrize("text", [f"I think and think{END}", END, f"Well.\n{render_call(CALL)}{END}"])
def test_reasoning_without_an_end_is_malformed_and_counted(text: str) -> None:
    told = Told(made("cancel/plain"))
    ids = list(told.where.encode(text))
    new = told.episode.advance(Sample(ids, [-0.5] * len(ids), Finish.stop))
    assert new is not None
    assert "Error: the reasoning does not end" in told.where.decode(new)
    assert told.episode.played("", 0, 0).trajectory.counts.errors == 1
    assert TEMPLATE.forget(["prompt" + THINK, text]) == f"prompt{END}"
