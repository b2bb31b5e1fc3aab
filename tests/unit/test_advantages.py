"""Group-normalised advantages, against the formula written out with loops."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.solver.advantages import group_advantages

REWARDS = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.05, 1.0])), min_size=0, max_size=12)


def slow(rewards: list[float | None], scale: bool) -> list[float | None] | None:
    known = [reward for reward in rewards if reward is not None]
    if len(set(known)) < 2:
        return None
    mean = math.fsum(known) / len(known)
    deviation = math.sqrt(math.fsum((reward - mean) ** 2 for reward in known) / (len(known) - 1))
    return [None if r is None else (r - mean) / (deviation + 1e-4 if scale else 1.0) for r in rewards]


@given(REWARDS, st.booleans())
def test_equals_the_formula(rewards: list[float | None], scale: bool) -> None:
    found, expected = group_advantages(rewards, scale=scale), slow(rewards, scale)
    assert (found is None) == (expected is None)
    for one, other in zip(found or [], expected or [], strict=True):
        assert one == (None if other is None else pytest.approx(other, rel=1e-9))


def test_a_known_group() -> None:
    # One success in four: mean 0.25, sample deviation 0.5.
    advantages = group_advantages([1.0, 0.0, 0.0, 0.0])
    assert advantages == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])


@pytest.mark.parametrize("rewards", [[], [1.0], [0.0] * 8, [1.0] * 8, [None] * 8, [1.0, None, None], [0.0, None, 0.0]])
def test_no_information(rewards: list[float | None]) -> None:
    assert group_advantages(rewards) is None


def test_a_void_episode_moves_nobody() -> None:
    with_void = group_advantages([1.0, None, 0.0, 0.0])
    without = group_advantages([1.0, 0.0, 0.0])
    assert with_void is not None
    assert with_void[1] is None
    assert [value for value in with_void if value is not None] == without
