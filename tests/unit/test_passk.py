"""Pass^k against brute force, and what void trials do to it."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.evaluation.metrics import evaluate_metrics
from sentinel.evaluation.passk import pass_hat, pass_hat_k
from sentinel.records import Outcome
from sentinel.spec.models import Evaluator
from tests.unit.evaluation_toys import TASKS, trial

OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=9)


@given(OUTCOMES, st.integers(1, 9))
def test_it_is_the_share_of_k_subsets_that_all_succeed(outcomes: list[bool], k: int) -> None:
    if k > len(outcomes):
        with pytest.raises(ValueError, match=f"Pass\\^{k}"):
            pass_hat_k(sum(outcomes), len(outcomes), k)
    else:
        subsets = [all(subset) for subset in combinations(outcomes, k)]
        assert pass_hat_k(sum(outcomes), len(outcomes), k) == pytest.approx(sum(subsets) / len(subsets))


@given(st.integers(1, 12), st.data())
def test_it_falls_with_k_and_rises_with_successes(scored: int, data: st.DataObject) -> None:
    won = data.draw(st.integers(0, scored))
    by_k = [pass_hat_k(won, scored, k) for k in range(1, scored + 1)]
    assert by_k == sorted(by_k, reverse=True)
    assert by_k[0] == won / scored
    assert pass_hat_k(won, scored, scored) == float(won == scored)


def test_it_is_unbiased() -> None:
    p, scored, k = Fraction(3, 5), 6, 4
    chance = [_binomial(scored, won, p) for won in range(scored + 1)]
    mean = sum(float(weight) * pass_hat_k(won, scored, k) for won, weight in enumerate(chance))
    assert mean == pytest.approx(float(p**k))


def _binomial(n: int, c: int, p: Fraction) -> Fraction:
    return len(list(combinations(range(n), c))) * p**c * (1 - p) ** (n - c)


@pytest.mark.parametrize(("successes", "scored", "k"), [(1, 1, 2), (2, 1, 1), (-1, 4, 1), (1, 4, 0)])
def test_impossible_counts_are_refused(successes: int, scored: int, k: int) -> None:
    with pytest.raises(ValueError, match="needs 1 <= k"):
        pass_hat_k(successes, scored, k)


def test_void_trials_are_left_out_and_tasks_with_too_few_are_counted() -> None:
    won, lost, void = Outcome.success, Outcome.failure, Outcome.void
    outcomes = {"a": [won, won, won, lost], "b": [won, won, void, won], "c": [void, void, void, void]}
    trials = [trial(task, number, each) for task, row in outcomes.items() for number, each in enumerate(row)]
    assert pass_hat(trials, 1) == ({"a": 0.75, "b": 1.0}, 1)
    assert pass_hat(trials, 3) == ({"a": 0.25, "b": 1.0}, 1)
    assert pass_hat(trials, 4) == ({"a": 0.0}, 2)


def test_metrics_count_voids_and_keep_none_apart_from_zero() -> None:
    trials = [trial("a", 0, Outcome.success), trial("a", 1, Outcome.void)]
    metrics = evaluate_metrics(trials, Evaluator(trials=2, k=(1, 2)), TASKS, baseline=trials)
    assert (metrics.tasks, metrics.trials, metrics.voids) == (1, 2, {"infrastructure": 1})
    assert metrics.pass_hat["2"] is None
    assert metrics.pass_hat["1"] is not None
    assert metrics.pass_hat["1"].value == 1.0
    assert metrics.paired_delta is not None
    assert metrics.paired_delta["2"] is None
    assert metrics.by_tool["cancel_pending_order"].tasks == 1


def test_without_trials_there_is_no_figure() -> None:
    metrics = evaluate_metrics([], Evaluator(), TASKS)
    assert set(metrics.pass_hat.values()) == {None}
    assert metrics.by_tool == {}
