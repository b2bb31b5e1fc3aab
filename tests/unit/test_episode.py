"""One conversation: its token buffer, its endings and outcomes, and what a malformed turn becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sentinel.artifacts import read_jsonl, write_jsonl
from sentinel.env.users import PATIENCE
from sentinel.env.vocabulary import agent_says
from sentinel.llm.engine import Finish, Limits, Sample
from sentinel.llm.scripted import ScriptedEngine
from sentinel.llm.templates import END, render_call
from sentinel.records import Ending, Outcome, Role, ToolCall, Trajectory, VoidReason
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Demonstration, do_nothing, expert
from sentinel.rollout.episode import MAX_CALLS, Assignment, Episode, Played
from tests.unit.builders import CONDITIONS, acted, made, spelled

TASK = made("cancel/no_reason")
AUTHENTICATE = TASK.gold[0]


def encoded(where: Arena, text: str) -> list[int]:
    return list(where.encode(text + END))


def turn(where: Arena, text: str) -> Sample:
    ids = encoded(where, text)
    return Sample(ids, [-0.5 - n for n in range(len(ids))], Finish.stop)


class Told:
    """Plays an episode turn by turn and keeps what the engine saw of it."""

    def __init__(self, where: Arena | None = None) -> None:
        self.where = where or spelled()
        self.episode = Episode(Assignment(TASK, 0, 7), self.where)
        self.seen = list(self.episode.start())
        self.sampled = [False] * len(self.seen)
        self.logprobs = [0.0] * len(self.seen)

    def sample(self, sample: Sample) -> list[int] | None:
        before = list(self.seen)
        new = self.episode.advance(sample)
        for ids, sampled, logprobs in ((sample.ids, True, sample.logprobs), (new or [], False, [0.0] * len(new or []))):
            self.seen += ids
            self.sampled += [sampled] * len(ids)
            self.logprobs += logprobs
        assert self.seen[: len(before)] == before
        tokens = self.played.tokens
        assert tokens.ids.tolist() == self.seen
        assert tokens.sampled.tolist() == self.sampled
        assert tokens.logprobs.tolist() == pytest.approx(self.logprobs)
        return new

    def say(self, text: str) -> list[int] | None:
        return self.sample(turn(self.where, text))

    def call(self, call: ToolCall) -> list[int] | None:
        return self.say(render_call(call))

    @property
    def trajectory(self) -> Trajectory:
        return self.played.trajectory

    @property
    def played(self) -> Played:
        return self.episode.played("p", 3, 4)


def test_the_buffer_is_what_the_engine_saw_and_only_grows() -> None:
    told = Told()
    for action in expert(TASK):
        told.say(action) if isinstance(action, str) else told.call(action)
    tokens = told.played.tokens
    assert told.trajectory.outcome is Outcome.success
    assert [str(array.dtype) for array in (tokens.ids, tokens.sampled, tokens.logprobs)] == ["int64", "bool", "float32"]
    assert len(tokens.ids) == len(tokens.sampled) == len(tokens.logprobs) == told.trajectory.counts.tokens
    assert (tokens.logprobs[~tokens.sampled] == 0).all()
    assert (tokens.logprobs[tokens.sampled] < 0).all()


def test_the_sampled_tokens_are_the_assistants_words_and_nothing_else() -> None:
    where = spelled()
    for name in CONDITIONS:
        task = made(name)
        tokens = acted(task, expert(task), where).tokens
        written = where.decode(tokens.ids[tokens.sampled].tolist())
        assert written == "".join((a if isinstance(a, str) else render_call(a)) + END for a in expert(task))
        assert where.decode(tokens.ids[~tokens.sampled].tolist()).count("assistant\n") == len(expert(task))


def test_the_whole_buffer_is_the_rendered_conversation() -> None:
    where = spelled()
    played = acted(TASK, expert(TASK), where)
    text = where.decode(played.tokens.ids.tolist())
    place = 0
    for message in played.trajectory.messages[:-1]:
        shown = message.content or render_call(message.tool_calls[0])
        place = text.index(shown, place) + len(shown)
    assert text[place:] == END, "the user's ###STOP### is not read by anyone"


def test_messages_are_numbered_by_turn_and_name_their_speakers() -> None:
    messages = acted(TASK, expert(TASK), spelled()).trajectory.messages
    assert [(m.role, m.turn) for m in messages[:3]] == [(Role.user, 0), (Role.assistant, 1), (Role.tool, 1)]
    assert [m.turn for m in messages if m.role is Role.assistant] == list(range(1, len(expert(TASK)) + 1))
    assert all(bool(m.content) != bool(m.tool_calls) for m in messages if m.role is Role.assistant)


def test_success_is_the_gold_delta_and_nothing_forbidden_said() -> None:
    trajectory = acted(TASK, expert(TASK), spelled()).trajectory
    assert (trajectory.ending, trajectory.outcome) == (Ending.user_stop, Outcome.success)
    assert trajectory.world_delta == trajectory.gold_delta != {}
    assert trajectory.reward is not None
    assert trajectory.reward.total == 1.0


def test_claiming_success_is_a_failure() -> None:
    trajectory = acted(TASK, do_nothing(TASK), spelled()).trajectory
    assert (trajectory.ending, trajectory.outcome, trajectory.world_delta) == (Ending.user_stop, Outcome.failure, {})


def test_right_deeds_with_forbidden_words_are_a_failure() -> None:
    trajectory = acted(TASK, [*expert(TASK)[:-1], agent_says("deny")], spelled()).trajectory
    assert trajectory.world_delta == trajectory.gold_delta
    assert trajectory.reward is not None
    assert (trajectory.reward.db, trajectory.reward.communicate) == (1.0, 0.0)
    assert trajectory.outcome is Outcome.failure


def test_the_turn_limit_of_an_episode_ends_it_unrewarded() -> None:
    actions = expert(TASK)
    for max_turns, ending in ((len(actions), Ending.user_stop), (len(actions) - 1, Ending.out_of_turns)):
        trajectory = acted(TASK, actions, spelled(max_turns=max_turns)).trajectory
        assert trajectory.ending is ending
        assert trajectory.counts.turns <= max_turns
    assert trajectory.world_delta == trajectory.gold_delta, "it did the right thing"
    assert trajectory.outcome is Outcome.failure, "but was not through"


def test_an_observation_that_does_not_fit_ends_the_episode_and_is_not_read() -> None:
    roomy = acted(TASK, expert(TASK), spelled())
    whole = len(roomy.tokens.ids)
    for max_context in range(whole - 60, whole, 7):
        played = acted(TASK, expert(TASK), spelled(max_context=max_context))
        assert played.trajectory.ending is Ending.out_of_context
        assert played.trajectory.outcome is Outcome.failure
        assert len(played.tokens.ids) <= max_context
        assert played.tokens.ids.tolist() == roomy.tokens.ids[: len(played.tokens.ids)].tolist()
    assert acted(TASK, expert(TASK), spelled(max_context=whole)).trajectory.outcome is Outcome.success


def test_a_prompt_that_does_not_fit_is_out_of_context() -> None:
    where = spelled(max_context=16)
    episode = Demonstration(Assignment(TASK, 0, 0), where, expert(TASK))
    ScriptedEngine().run([episode], Limits(1.0, 16, 16))
    trajectory, tokens = episode.played("p", 0, 0).trajectory, episode.played("p", 0, 0).tokens
    assert (trajectory.ending, trajectory.counts.turns) == (Ending.out_of_context, 0)
    assert trajectory.outcome is Outcome.failure
    assert not tokens.sampled.any()


@pytest.mark.parametrize(
    ("finish", "ending"),
    [(Finish.turn_limit, Ending.malformed), (Finish.context_limit, Ending.out_of_context)],
)
def test_a_turn_that_was_cut_ends_the_episode_and_is_not_executed(finish: Finish, ending: Ending) -> None:
    told = Told()
    ids = encoded(told.where, render_call(AUTHENTICATE))[:-1]
    assert told.sample(Sample(ids, [-1.0] * len(ids), finish)) is None
    assert told.trajectory.ending is ending
    assert told.trajectory.outcome is Outcome.failure
    assert [m.role for m in told.trajectory.messages] == [Role.user, Role.assistant]
    assert told.trajectory.messages[-1].content == render_call(AUTHENTICATE)


@pytest.mark.parametrize(
    "text",
    ["", "<tool_call>\n{oops}\n</tool_call>", "<tool_call>\n", '<tool_call>{"name": "x", "arguments": []}</tool_call>'],
)
def test_a_malformed_turn_becomes_an_error_that_the_policy_reads(text: str) -> None:
    told = Told()
    new = told.say(text)
    assert new is not None
    read = told.where.decode(new)
    assert "<tool_response>\nError: the " in read
    assistant, observation = told.trajectory.messages[1:]
    assert (assistant.role, assistant.tool_calls) == (Role.assistant, ())
    assert (observation.role, observation.error) == (Role.tool, True)
    assert observation.content in read
    assert told.trajectory.counts.errors == 1
    for action in expert(TASK):
        told.say(action) if isinstance(action, str) else told.call(action)
    assert told.trajectory.outcome is Outcome.success, "it may mend itself"


def test_a_refusal_of_a_tool_is_counted_and_changes_nothing() -> None:
    told = Told()
    told.call(ToolCall(name="cancel_pending_order", arguments={"order_id": "#W99", "reason": "no longer needed"}))
    told.call(ToolCall(name="cancel_every_order", arguments={}))
    told.call(ToolCall(name="get_user_details", arguments={"user": "user_10"}))
    assert told.trajectory.counts.errors == 3
    assert [m.error for m in told.trajectory.messages if m.role is Role.tool] == [True] * 3
    assert told.trajectory.world_delta == {}


def test_several_calls_in_one_turn_are_executed_in_order() -> None:
    told = Told()
    lookup = ToolCall(name="get_order_details", arguments={"order_id": "#W99"})
    new = told.say(f"{render_call(AUTHENTICATE)}\n{render_call(lookup)}")
    assert new is not None
    assert told.where.decode(new).count("<tool_response>\n") == 2
    assert told.trajectory.messages[1].tool_calls == (AUTHENTICATE, lookup)
    assert [(m.role, m.error, m.turn) for m in told.trajectory.messages[2:]] == [
        (Role.tool, False, 1),
        (Role.tool, True, 1),
    ]


def test_a_user_who_is_not_understood_hangs_up() -> None:
    told = Told()
    replies = [told.say("Nice weather.") for _ in range(PATIENCE + 1)]
    assert [reply is None for reply in replies] == [False] * PATIENCE + [True]
    assert (told.trajectory.ending, told.trajectory.outcome) == (Ending.user_stop, Outcome.failure)


def test_an_abandoned_episode_is_void_and_has_no_reward() -> None:
    told = Told()
    told.call(AUTHENTICATE)
    told.episode.abandon("the server is gone")
    trajectory = told.trajectory
    assert (trajectory.outcome, trajectory.void_reason) == (Outcome.void, VoidReason.infrastructure)
    assert (trajectory.ending, trajectory.reward) == (Ending.error, None)
    assert trajectory.messages[-1].content == "the server is gone"


def test_a_trajectory_survives_writing_and_says_where_its_tokens_lie(tmp_path: Path) -> None:
    told = Told()
    told.say("<tool_call>\n\x00\n</tool_call>")
    trajectory = told.trajectory
    assert (trajectory.policy, trajectory.chunk, trajectory.row, trajectory.seed) == ("p", 3, 4, 7)
    write_jsonl(tmp_path / "t.jsonl", [trajectory])
    assert read_jsonl(tmp_path / "t.jsonl", Trajectory) == [trajectory]


def test_the_noise_depends_on_the_seed_alone() -> None:
    where = spelled()
    one, same, other = (Episode(Assignment(TASK, trial, seed), where) for trial, seed in ((0, 7), (1, 7), (0, 8)))
    assert np.array_equal(one.noise(9), same.noise(9))
    assert np.array_equal(one.noise(9)[:4], one.noise(4))
    assert not np.array_equal(one.noise(9), other.noise(9))


def test_calls_beyond_the_cap_of_a_turn_are_errors_to_observe_and_counted() -> None:
    told = Told()
    unknown = ToolCall(name="get_weather", arguments={})
    wrong = ToolCall(name="get_order_details", arguments={"order_id": {"a": 1}})
    told.say("\n".join(render_call(call) for call in [AUTHENTICATE, unknown, wrong, *[AUTHENTICATE] * 47]))
    observed = [message for message in told.trajectory.messages if message.role is Role.tool]
    assert [message.error for message in observed] == [False, True, True, *[False] * (MAX_CALLS - 3), *[True] * 30]
    assert told.trajectory.counts.errors == 32
    assert f"at most {MAX_CALLS} calls" in observed[-1].content


def test_an_observation_that_does_not_fit_is_the_policys_failure() -> None:
    told = Told(spelled(max_context=200))
    new = told.say("\n".join([render_call(AUTHENTICATE)] * 3))
    assert new is None
    assert (told.trajectory.ending, told.trajectory.outcome) == (Ending.out_of_context, Outcome.failure)
    assert told.trajectory.void_reason is None
