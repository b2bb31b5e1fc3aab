"""Pass^k: the chance that *all* of k independent trials of a task succeed, the reliability measure of tau-bench.

    per_task = pass_hat(trials, k=4)
    mean(per_task.values.values()), per_task.excluded

Not pass@k (at least one of k). Void trials are left out, so a task may have fewer scored trials than were played.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import comb
from typing import NamedTuple

from sentinel.records import Outcome, Trial


class PerTask(NamedTuple):
    """Pass^k of every task that can be scored, and the number of tasks that cannot."""

    values: Mapping[str, float]
    """Task id -> Pass^k in [0, 1], in the order in which tasks first appear."""
    excluded: int
    """Tasks with fewer than k scored trials."""


def pass_hat_k(successes: int, scored: int, k: int) -> float:
    """Unbiased estimate of p^k from c successes in n trials: C(c, k) / C(n, k).

    Source: Yao et al. 2024, tau-bench (arXiv 2406.12045); the same as `tau2.metrics.agent_metrics.pass_hat_k`.

    Raises:
        ValueError: if `scored` is below `k`, where no unbiased estimate exists, or the counts are impossible.
    """
    if not (1 <= k <= scored and 0 <= successes <= scored):
        raise ValueError(f"Pass^{k} needs 1 <= k <= scored and 0 <= successes <= scored, found {successes} of {scored}")
    return comb(successes, k) / comb(scored, k)


def pass_hat(trials: Iterable[Trial], k: int) -> PerTask:
    """Pass^k per task over the trials that are not void."""
    played = list(trials)
    scored = Counter(trial.task for trial in played if trial.outcome is not Outcome.void)
    won = Counter(trial.task for trial in played if trial.outcome is Outcome.success)
    tasks = dict.fromkeys(trial.task for trial in played)
    values = {task: pass_hat_k(won[task], scored[task], k) for task in tasks if scored[task] >= k}
    return PerTask(values, excluded=len(tasks) - len(values))
