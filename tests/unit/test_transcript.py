"""The token buffer: it only grows, it notices another's memory, and what rewrites history opens a segment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sentinel.llm.engine import Finish, Limits, Rewritten, Sample
from sentinel.llm.hf import HfEngine
from sentinel.llm.scripted import ScriptedEngine
from sentinel.llm.templates import END, THINK, Qwen3Thinking
from sentinel.llm.transcript import BrokenPrefix, Transcript
from sentinel.records import Ending, Outcome, Role, VoidReason
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Demonstration, expert
from sentinel.rollout.episode import Assignment, Episode, Played
from sentinel.seeds import generator
from tests.unit.builders import ROOMY, made, spelled
from tests.unit.solver_toys import WordGame, tiny_llama
from tests.unit.test_hf_engine import STOP, forward, llama
from tests.unit.test_trainer import settings as train_settings
from tests.unit.test_trainer import trainer

IDS = st.lists(st.integers(0, 9), max_size=4)


def sampled(*ids: int, prompt: list[int] | None = None) -> Sample:
    return Sample(list(ids), [-float(n) for n in ids], Finish.stop, prompt)


@given(st.lists(st.tuples(IDS, IDS.filter(bool))))
def test_it_keeps_order_mask_and_logprobs(parts: list[tuple[list[int], list[int]]]) -> None:
    transcript, expected = Transcript(), list[tuple[int, bool, float]]()
    for read, said in parts:
        assert transcript.read(read) == read
        transcript.sample(sampled(*said, prompt=[each for each, _, _ in expected] + read))
        expected += [(n, False, 0.0) for n in read] + [(n, True, -float(n)) for n in said]
    (tokens,) = transcript.segments()
    assert list(zip(tokens.ids, tokens.sampled, tokens.logprobs, strict=True)) == expected
    assert len(transcript) == transcript.total == len(expected)


def test_a_prompt_that_goes_on_is_read_and_one_that_does_not_opens_a_segment() -> None:
    transcript = Transcript()
    transcript.read([1, 2])
    transcript.sample(sampled(3, 4))
    on = transcript.new([1, 2, 3, 4, 5])
    assert on == [5]
    assert not isinstance(on, Rewritten)
    transcript.read(on)
    again = transcript.new([1, 2, 4, 6])
    assert again == [1, 2, 4, 6]
    assert isinstance(again, Rewritten)
    transcript.read(again)
    transcript.sample(sampled(7))
    assert [tokens.ids.tolist() for tokens in transcript.segments()] == [[1, 2, 3, 4, 5], [1, 2, 4, 6, 7]]
    assert (len(transcript), transcript.total) == (5, 10)


@pytest.mark.parametrize(
    "sample",
    [
        sampled(3, prompt=[1]),
        sampled(3, prompt=[1, 2, 3]),
        sampled(3, prompt=[2, 1]),
        sampled(),
        Sample([3, 4], [-1.0], Finish.stop),
    ],
    ids=["shorter", "longer", "other", "nothing", "logprob lost"],
)
def test_another_memory_is_noticed_and_voids_the_episode(sample: Sample) -> None:
    transcript = Transcript()
    transcript.read([1, 2])
    with pytest.raises(BrokenPrefix):
        transcript.sample(sample)
    assert transcript.segments()[0].ids.tolist() == [1, 2]
    episode = Episode(Assignment(made("cancel/plain"), 0, 7), spelled())
    episode.start()
    assert episode.advance(sample) is None
    trajectory = episode.played("", 0, 0).trajectory
    assert (trajectory.outcome, trajectory.void_reason) == (Outcome.void, VoidReason.broken_prefix)
    assert trajectory.messages[-1].role is Role.system


class Forgetful:
    """A conversation whose history is rewritten after every turn."""

    def __init__(self, seed: int) -> None:
        self.seed, self.turns, self.transcript = seed, 0, Transcript()

    def start(self) -> list[int]:
        return self.transcript.read([1, 3 + self.seed % 5, 4])

    def noise(self, count: int) -> NDArray[np.float64]:
        return generator(self.seed, "noise").random(count)

    def abandon(self, reason: str) -> None:
        raise AssertionError(reason)

    def advance(self, sample: Sample) -> list[int] | None:
        self.transcript.sample(sample)
        self.turns += 1
        return None if self.turns == 3 else self.transcript.read(Rewritten([1, 5 + self.turns, *sample.ids[:2], 4]))


def test_the_in_process_engine_starts_over_where_history_is_rewritten() -> None:
    model, conversations = llama(), [Forgetful(seed) for seed in range(6)]
    HfEngine(model, STOP).run(conversations, Limits(1.0, 12, 48))
    for conversation in conversations:
        segments = conversation.transcript.segments()
        assert len(segments) == 3
        for tokens in segments:
            expected = forward(model, tokens.ids.tolist(), 1.0)
            for position in np.flatnonzero(tokens.sampled):
                assert tokens.logprobs[position] == pytest.approx(
                    float(expected[position - 1, tokens.ids[position]]), abs=1e-4
                )
    draws = [tuple(tokens.ids[tokens.sampled]) for each in conversations for tokens in each.transcript.segments()]
    assert len(set(draws)) > len(conversations)


def thinking(max_context: int = ROOMY) -> Arena:
    where = spelled(max_context=max_context)
    where.template = Qwen3Thinking()
    return where


def test_reference_agents_play_in_any_template_and_room_is_counted_per_segment() -> None:
    task = made("cancel/no_reason")
    roomy = Demonstration(Assignment(task, 0, 7), thinking(), expert(task))
    ScriptedEngine().run([roomy], Limits(1.0, ROOMY, ROOMY))
    played = roomy.played("", 0, 0)
    assert played.trajectory.outcome is Outcome.success
    assert len(played.samples) > 1
    longest = max(len(tokens.ids) for tokens in played.samples)
    assert longest < played.trajectory.counts.tokens
    for room, ending in ((longest, Ending.user_stop), (longest - 1, Ending.out_of_context)):
        tight = Demonstration(Assignment(task, 0, 7), thinking(room), expert(task))
        ScriptedEngine().run([tight], Limits(1.0, ROOMY, room))
        assert tight.played("", 0, 0).trajectory.ending is ending


def test_all_segments_are_trained_with_the_episodes_advantage(tmp_path: Path) -> None:
    class Segmented(WordGame):
        segments = 1

        def _episode(self, assignment: Assignment, policy: str) -> Played:
            played = super()._episode(assignment, policy)
            return Played(played.trajectory, played.samples * self.segments)

    figures = []
    for segments in (1, 3):
        model = tiny_llama()
        game = Segmented(model)
        game.segments = segments
        (metrics,) = trainer(tmp_path / str(segments), model, game, train_settings(steps=1)).train()
        assert metrics.trained_tokens
        figures.append(metrics)
    once, thrice = figures
    assert thrice.trained_tokens == 3 * once.trained_tokens
    assert thrice.loss == pytest.approx(once.loss, abs=1e-6)
    assert thrice.grad_norm == pytest.approx(once.grad_norm, rel=1e-4)


def test_the_first_prompt_of_a_thinking_policy_opens_its_reasoning() -> None:
    episode = Episode(Assignment(made("cancel/plain"), 0, 7), where := thinking())
    assert where.decode(episode.start()).endswith(f"{END}\n<|im_start|>assistant\n{THINK}")
