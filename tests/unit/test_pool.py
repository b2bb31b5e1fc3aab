"""Many episodes: interleaving changes nothing, chunks come in order, and every (task, trial) has a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sentinel.artifacts import canonical
from sentinel.env.synthetic import atoms
from sentinel.llm.engine import Conversation, Finish, Limits, Sample
from sentinel.llm.hf import HfEngine
from sentinel.llm.policy import Policy, new_policy
from sentinel.llm.scripted import ScriptedEngine
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.records import Ending, Outcome, Task
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Demonstration, careless, expert
from sentinel.rollout.episode import Assignment, Played
from sentinel.rollout.players import Players
from sentinel.rollout.pool import assign, play
from sentinel.seeds import generator
from sentinel.spec.models import Rollout, TinyPolicy
from tests.unit.builders import CONDITIONS, ROOMY, arena, made, mixed, spelled

TINY = TinyPolicy(type="tiny", layers=1, hidden=32, heads=2, feed_forward=32, max_context=256)


class Stopping(torch.nn.Module):
    """A head that likes the stop token, so that an untrained policy takes turns of a dozen tokens."""

    def __init__(self, head: torch.nn.Module, stop: int) -> None:
        super().__init__()
        self.head, self.stop = head, stop

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(hidden)
        bias = torch.zeros(logits.shape[-1])
        bias[self.stop] = 4.0
        return logits + bias


@cache
def policy() -> Policy:
    """A random policy over atoms and characters."""
    tokenizer = train_tokenizer([""], atoms(), max_context=256)
    made = new_policy(TINY, tokenizer, seed=0)
    made.model.lm_head = Stopping(made.model.lm_head, tokenizer.eos_token_id)
    return made


@cache
def engine() -> HfEngine:
    return HfEngine(policy().model, policy().tokenizer.eos_token_id)


def limits(max_context: int = 256) -> Limits:
    return Limits(1.0, 40, max_context)


def tasks(count: int = 6) -> list[Task]:
    return mixed(29)[:: 29 // count][:count]


def plain(played: Sequence[Played]) -> list[tuple[str, list[bytes]]]:
    """Everything of an episode, as bytes."""
    return [
        (
            canonical(each.trajectory.model_dump(mode="json")),
            [array.tobytes() for array in (each.tokens.ids, each.tokens.sampled, each.tokens.logprobs)],
        )
        for each in played
    ]


def interleave(order: Sequence[int], conversations: Sequence[Demonstration]) -> None:
    """Feed the scripts one turn at a time: as the order says, then whatever is left."""
    for conversation in conversations:
        conversation.start()
    scripts = {n: conversation.script() for n, conversation in enumerate(conversations)}
    turns = [n % len(conversations) for n in order]
    for n in (*turns, *(n for n in range(len(conversations)) for _ in range(40))):
        ids = next(scripts[n], None) if n in scripts else None
        if ids is not None and conversations[n].advance(Sample(ids, [0.0] * len(ids), Finish.stop)) is None:
            del scripts[n]


def demonstrations(numbers: Sequence[int], where: Arena) -> list[Demonstration]:
    episodes = []
    for n in numbers:
        task = made(list(CONDITIONS)[n])
        actions = expert(task) if n % 2 else careless(task, where.world, generator(task.id))
        episodes.append(Demonstration(Assignment(task, n, n), where, actions))
    return episodes


@settings(max_examples=30)
@given(st.lists(st.integers(0, 28), min_size=1, max_size=6), st.lists(st.integers(0, 5), max_size=40))
def test_interleaved_episodes_equal_sequential_ones(numbers: list[int], order: list[int]) -> None:
    where = arena()
    apart, woven = demonstrations(numbers, where), demonstrations(numbers, where)
    ScriptedEngine().run(apart, Limits(1.0, ROOMY, ROOMY))
    interleave(order, woven)
    assert plain([e.played("p", 0, 0) for e in woven]) == plain([e.played("p", 0, 0) for e in apart])


def test_two_episodes_of_one_task_do_not_share_a_world() -> None:
    where, task = arena(), made("cancel/plain")
    both = [Demonstration(Assignment(task, n, n), where, expert(task)) for n in range(2)]
    interleave([0, 1] * 20, both)
    assert [e.played("p", 0, 0).trajectory.outcome for e in both] == [Outcome.success] * 2


def test_every_task_and_trial_has_its_own_seed() -> None:
    assignments = assign(tasks(), 4, 7, "rollout", 1)
    assert [(a.task.id, a.trial) for a in assignments] == [(task.id, n) for task in tasks() for n in range(4)]
    assert len({a.seed for a in assignments}) == len(assignments)
    seeds = {(a.task.id, a.trial): a.seed for a in assignments}
    fewer = assign(tasks()[3:4], 2, 7, "rollout", 1)
    assert all(seeds[a.task.id, a.trial] == a.seed for a in fewer), "neither order nor number of the others matters"
    assert {a.seed for a in assign(tasks(), 4, 7, "rollout", 2)}.isdisjoint(seeds.values())


def test_chunks_are_played_and_heard_of_in_order() -> None:
    assignments, heard = assign(tasks(5), 2, 7), list[list[Played]]()
    where = spelled(max_context=256)
    played = play(assignments, where, engine(), limits(), chunk=4, policy="abc", on_chunk=heard.append)
    assert [len(chunk) for chunk in heard] == [4, 4, 2]
    assert [each for chunk in heard for each in chunk] == played
    places = [(each.trajectory.chunk, each.trajectory.row) for each in played]
    assert places == [(n // 4, n % 4) for n in range(10)]
    for each, assignment in zip(played, assignments, strict=True):
        trajectory = each.trajectory
        assert Assignment(trajectory.task, trajectory.trial, trajectory.seed) == assignment
        assert trajectory.policy == "abc"


def test_no_assignments_no_episodes() -> None:
    assert play([], arena(), engine(), limits(), chunk=4) == []


def test_equal_pools_are_equal_to_the_last_bit_and_other_seeds_play_differently() -> None:
    where = spelled(max_context=256)
    first, again, other = (
        plain(play(assign(tasks(), 3, seed), where, engine(), limits(), chunk=8)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_what_a_policy_babbles_is_scored_and_stays_within_its_context() -> None:
    where = spelled(max_context=140)
    played = play(assign(tasks(), 6, 3), where, engine(), limits(140), chunk=16)
    assert {Ending.user_stop, Ending.out_of_context} <= {each.trajectory.ending for each in played}
    for each in played:
        tokens, trajectory = each.tokens, each.trajectory
        assert trajectory.ending is not Ending.error
        assert trajectory.outcome is Outcome.failure
        assert len(tokens.ids) == trajectory.counts.tokens <= 140
        assert (tokens.logprobs[tokens.sampled] <= 0).all()
        assert np.isfinite(tokens.logprobs).all()


@torch.no_grad()
def test_the_buffers_logprobs_are_those_of_the_policy_on_exactly_these_ids() -> None:
    """The contract with the trainer: no re-tokenisation anywhere, prompts, replies and observations included."""
    where = spelled(max_context=256)
    for each in play(assign(tasks(), 2, 5), where, engine(), limits(), chunk=12):
        ids = torch.from_numpy(each.tokens.ids)[None]
        expected = policy().model(input_ids=ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
        sampled = torch.from_numpy(each.tokens.sampled)[1:]
        found = torch.from_numpy(each.tokens.logprobs)[1:]
        assert torch.allclose(found[sampled], expected[sampled], atol=1e-4)
        assert not found[~sampled].any()


def test_players_sample_as_their_section_says() -> None:
    players = Players("abc", spelled(max_context=256), engine())
    section = Rollout(tasks=1, trials=2, max_new_tokens=7, temperature=0.5)
    assert players.limits(section) == Limits(0.5, 7, 256)
    played = players.play(assign(tasks(1), 2, 7), section, chunk=2)
    assert [each.trajectory.policy for each in played] == ["abc", "abc"]
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], played[0].tokens.sampled.astype(int), [0]]))))[::2]
    assert max(runs) <= 7


def test_the_engine_is_told_the_noise_of_its_episodes_only() -> None:
    """An engine that asks for more noise gets the same numbers first."""

    class Curious:
        def run(self, conversations: Sequence[Conversation], limits: Limits) -> None:
            self.noise: list[NDArray[np.float64]] = [c.noise(limits.max_context) for c in conversations]
            for conversation in conversations:
                conversation.start()
                conversation.abandon("only looking")

    curious = Curious()
    played = play(assign(tasks(2), 2, 7), arena(), curious, limits(), chunk=4)
    assert len({row.tobytes() for row in curious.noise}) == 4
    assert all(((row >= 0) & (row < 1)).all() for row in curious.noise)
    assert [each.trajectory.outcome for each in played] == [Outcome.void] * 4


@pytest.mark.parametrize("count", [1, 3])
def test_a_chunk_larger_than_the_pool_is_one_chunk(count: int) -> None:
    heard: list[int] = []
    play(
        assign(tasks(count), 1, 7),
        spelled(max_context=256),
        engine(),
        limits(),
        chunk=99,
        on_chunk=lambda c: heard.append(len(c)),
    )
    assert heard == [count]
