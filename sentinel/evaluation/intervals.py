"""Task-clustered intervals for a mean over tasks, and for the paired difference of two evaluations.

    mean_interval(values)                     # Pass^k of one policy: Interval(value, low, high)
    paired_difference(after, before)          # two policies on the same tasks

Trials of one task resemble each other, so the task is the unit: a task's trials are first reduced to one value
(`sentinel.evaluation.passk`), and Student's t is applied to the values of the tasks (Miller 2024, "Adding error bars
to evals", arXiv 2411.00640; the same as `inspect_ai`'s `ci(method="t", cluster=...)` for tasks of equal weight). It
needs no random numbers and is symmetric under exchange of the two policies. Measured on simulated tasks (success drawn
from Beta(1.25, 0.40), 4 trials): at 114 tasks the 95% interval covers 94.9%, the paired one 95.0%; at the 8 tasks of a
breakdown 91.6% and 95.7%, where a percentile bootstrap over tasks covers 85.2%.

Covered: the draw of the tasks, the sampling of the policy and of the user within trials. **Not covered**: the training
seed (another training run may land elsewhere), the choice of the user simulator, and faults of the tasks themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval; shares in [0, 1], differences in [-1, 1]."""

    value: float
    low: float
    high: float


class Bounds(NamedTuple):
    """The least and the greatest value a task can have."""

    low: float
    high: float


SHARE = Bounds(0.0, 1.0)
DIFFERENCE = Bounds(-1.0, 1.0)


def _unanimous(value: float, tasks: int, confidence: float, bounds: Bounds) -> Interval:
    """Where all tasks agree their spread says nothing; then the share of tasks that differ bounds the mean.

    None of n tasks differs, so that share is at most 1 - (alpha/2)^(1/n) (Clopper-Pearson, the "rule of three").
    """
    share = 1.0 - ((1.0 - confidence) / 2.0) ** (1.0 / tasks)
    return Interval(value, value - share * (value - bounds.low), value + share * (bounds.high - value))


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE, bounds: Bounds = SHARE) -> Interval | None:
    """Mean over tasks with its t interval, cut at `bounds`; `None` without tasks (`None` is not zero)."""
    data = np.asarray(values, dtype=np.float64)
    if not data.size:
        return None
    mean = float(data.mean())
    if np.ptp(data) == 0.0:
        return _unanimous(float(data[0]), data.size, confidence, bounds)
    half = float(stdtrit(data.size - 1, (1.0 + confidence) / 2.0) * data.std(ddof=1) / np.sqrt(data.size))
    return Interval(mean, max(bounds.low, mean - half), min(bounds.high, mean + half))


def paired_difference(
    after: Mapping[str, float], before: Mapping[str, float], confidence: float = CONFIDENCE
) -> Interval | None:
    """Mean of `after - before` over the tasks scored in both, clustered by task; `None` if there are none.

    Pairing removes the spread between easy and hard tasks: on 114 tasks x 4 trials it resolves about 4.5 points of
    Pass^1 where an unpaired comparison needs 7.9. See the module for what the interval does not cover.
    """
    shared = [task for task in after if task in before]
    return mean_interval([after[task] - before[task] for task in shared], confidence, DIFFERENCE)
