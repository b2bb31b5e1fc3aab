"""Packing: every sampled token once, nothing else, within the token bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sentinel.llm.transcript import Tokens
from sentinel.solver.batch import Sample, micro_batches
from sentinel.solver.loss import score
from tests.unit.solver_toys import random_tokens, tiny_llama


def samples(seed: int, count: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [Sample(random_tokens(rng, int(rng.integers(4, 40))), float(rng.normal())) for _ in range(count)]


def test_every_sampled_token_is_trained_once_with_its_own_values() -> None:
    given = samples(0, 17)
    found = []
    for batch in micro_batches(given, max_tokens=120):
        for n in range(len(batch.targets)):
            row, column = int(batch.rows[n]), int(batch.columns[n])
            before = tuple(batch.ids[row, : column + 1].tolist())
            found.append((before, int(batch.targets[n]), float(batch.behaviour[n]), float(batch.advantages[n])))
    expected = [
        (tuple(each.tokens.ids[:at].tolist()), int(each.tokens.ids[at]), float(each.tokens.logprobs[at]),
         float(np.float32(each.advantage)))
        for each in given
        for at in np.flatnonzero(each.tokens.sampled)
    ]  # fmt: skip
    assert sorted(found) == sorted(expected)


def test_bounded_tokens_and_little_padding() -> None:
    batches = micro_batches(samples(1, 200), max_tokens=400)
    assert max(batch.ids.numel() for batch in batches) <= 400
    fed = sum(batch.ids.numel() for batch in batches)
    padding = sum(int((batch.ids == 0).sum()) for batch in batches)
    assert padding / fed < 0.1


def test_an_episode_beyond_the_bound_stands_alone() -> None:
    batches = micro_batches(samples(2, 5), max_tokens=1)
    assert [len(batch.ids) for batch in batches] == [1] * 5


def test_tokens_after_the_last_sampled_one_are_not_fed() -> None:
    tokens = Tokens(
        ids=np.arange(1, 9), sampled=np.array([0, 0, 1, 0, 1, 0, 0, 0], dtype=bool), logprobs=np.zeros(8, np.float32)
    )
    (batch,) = micro_batches([Sample(tokens, 1.0)], max_tokens=100)
    assert batch.ids.tolist() == [[1, 2, 3, 4]]
    assert batch.columns.tolist() == [1, 3]
    assert batch.targets.tolist() == [3, 5]


def test_an_episode_without_sampled_tokens_is_left_out() -> None:
    nothing = Tokens(ids=np.arange(1, 5), sampled=np.zeros(4, bool), logprobs=np.zeros(4, np.float32))
    assert micro_batches([Sample(nothing, 1.0)], max_tokens=100) == []


def test_a_sampled_first_token_is_refused() -> None:
    tokens = Tokens(ids=np.arange(1, 3), sampled=np.array([True, True]), logprobs=np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="first token"):
        micro_batches([Sample(tokens, 1.0)], max_tokens=100)


@torch.no_grad()
def test_padding_and_neighbours_change_no_logprob() -> None:
    model, given = tiny_llama(), samples(3, 9)
    (together,) = micro_batches(given, max_tokens=10_000)
    found = score(model, together, temperature=1.0).logprobs
    order = sorted(range(9), key=lambda i: -int(np.flatnonzero(given[i].tokens.sampled)[-1]))
    alone = [score(model, micro_batches([given[i]], max_tokens=10_000)[0], temperature=1.0).logprobs for i in order]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-5, atol=1e-5)
