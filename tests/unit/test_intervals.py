"""Do the intervals hold what they promise?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sentinel.evaluation.intervals import DIFFERENCE, Interval, mean_interval, paired_difference
from sentinel.seeds import generator

TASKS = 114
REPETITIONS = 400
SHARES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=30)


def covers(interval: Interval | None, truth: float) -> bool:
    assert interval is not None
    return interval.low <= truth <= interval.high


def shares(successes: np.ndarray, trials: int = 4) -> list[float]:
    return [float(won) / trials for won in successes]


@pytest.mark.parametrize(("tasks", "least"), [(8, 0.88), (TASKS, 0.92)])
def test_it_covers_the_mean_of_the_tasks_distribution(tasks: int, least: float) -> None:
    """Per-task success as fitted to published retail results: Beta(1.25, 0.40), 4 trials each."""
    rng = generator("coverage", tasks)
    samples = rng.binomial(4, rng.beta(1.25, 0.40, (REPETITIONS, tasks)))
    covered = sum(covers(mean_interval(shares(sample)), 1.25 / 1.65) for sample in samples)
    assert least <= covered / REPETITIONS <= 0.985


def test_ignoring_the_clusters_would_not_cover() -> None:
    """The same data as 456 independent trials: the interval is too narrow."""
    rng = generator("coverage", TASKS)
    samples = rng.binomial(4, rng.beta(1.25, 0.40, (REPETITIONS, TASKS)))
    naive = [stats.binomtest(int(sample.sum()), 4 * TASKS).proportion_ci(method="wilson") for sample in samples]
    assert sum(low <= 1.25 / 1.65 <= high for low, high in naive) / REPETITIONS < 0.85


@pytest.mark.parametrize("tasks", [8, TASKS])
def test_paired_differences_cover_their_effect_and_resolve_what_unpaired_ones_cannot(tasks: int) -> None:
    rng = generator("paired", tasks)
    hard = rng.beta(1.25, 0.40, (REPETITIONS, tasks)) * 0.9
    before, after = rng.binomial(4, hard) / 4, rng.binomial(4, hard + 0.1) / 4
    found = [paired_difference(_by_task(b), _by_task(a)) for a, b in zip(before, after, strict=True)]
    assert 0.91 <= sum(covers(interval, 0.1) for interval in found) / REPETITIONS <= 0.985
    half = np.mean([(one.high - one.low) / 2 for one in found if one])
    unpaired = np.mean(1.98 * np.hypot(stats.sem(before, axis=1), stats.sem(after, axis=1)))
    assert half < 0.75 * unpaired


def _by_task(values: np.ndarray) -> dict[str, float]:
    return {f"t{task}": float(value) for task, value in enumerate(values)}


def test_a_real_effect_excludes_zero_and_none_does_not() -> None:
    rng = generator("effect")
    p = rng.uniform(0, 0.7, TASKS)
    before, same, better = (_by_task(rng.binomial(4, q) / 4) for q in (p, p, p + 0.25))
    gain, nothing = paired_difference(better, before), paired_difference(same, before)
    assert gain is not None
    assert gain.low > 0.15
    assert covers(nothing, 0.0)


@given(SHARES)
def test_exchanging_the_two_sides_mirrors_the_interval(values: list[float]) -> None:
    after = _by_task(np.array(values))
    before = _by_task(np.array(values[::-1]))
    one, other = paired_difference(after, before), paired_difference(before, after)
    assert one is not None
    assert other is not None
    assert one == pytest.approx((-other.value, -other.high, -other.low))


@given(SHARES)
def test_it_contains_its_value_and_stays_in_bounds(values: list[float]) -> None:
    interval = mean_interval(values)
    assert interval is not None
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0
    assert interval.high > interval.low


def test_only_tasks_scored_on_both_sides_are_compared() -> None:
    found = paired_difference({"a": 1.0, "b": 0.5, "new": 1.0}, {"a": 0.5, "b": 0.5, "gone": 1.0})
    assert found is not None
    assert found.value == 0.25
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None


def test_where_all_tasks_agree_the_rule_of_three_bounds_the_rest() -> None:
    none, all_ = (stats.binomtest(won, 100).proportion_ci(method="exact") for won in (0, 100))
    assert mean_interval([0.0] * 100) == pytest.approx((0.0, none.low, none.high))
    assert mean_interval([1.0] * 100) == pytest.approx((1.0, all_.low, all_.high))
    single = mean_interval([0.0], bounds=DIFFERENCE)
    assert single is not None
    assert single.low == -single.high == pytest.approx(-0.975)


def test_no_task_is_not_zero() -> None:
    assert mean_interval([]) is None


def test_at_a_hundred_tasks_it_agrees_with_the_bootstrap_over_tasks() -> None:
    rng = generator("bootstrap")
    values = rng.binomial(4, rng.beta(1.25, 0.40, TASKS)) / 4
    result = stats.bootstrap((values,), np.mean, n_resamples=4000, method="BCa", rng=rng)
    interval = mean_interval(list(values))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(tuple(result.confidence_interval), abs=0.008)
