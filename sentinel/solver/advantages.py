"""How good each episode of a group was, relative to the others: GRPO's replacement for a value function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EPSILON = 1e-4
"""Added to the standard deviation, as TRL does; it matters only for nearly equal rewards."""


def group_advantages(rewards: Sequence[float | None], *, scale: bool = True) -> list[float | None] | None:
    """Group-normalised advantages `(r - mean) / (std + EPSILON)` of the episodes of one task.

    DeepSeekMath (arXiv:2402.03300, §4.1.2) with the sample standard deviation (n - 1) that TRL uses; `scale=False`
    leaves the division out (Dr. GRPO, arXiv:2503.20783, §3.2: it overweights tasks of extreme difficulty).

    Args:
        rewards: one per episode of the group; `None` for a void episode, which counts neither in the mean nor in the
            deviation.
        scale: whether to divide by the deviation.

    Returns:
        One advantage per episode (`None` for a void one), or `None` where the group carries no information: fewer than
        two episodes that count, or all rewards equal (DAPO's dynamic sampling drops those, arXiv:2503.14476, §3.2).
    """
    known = np.array([reward for reward in rewards if reward is not None], dtype=np.float64)
    if len(known) < 2 or known.max() == known.min():
        return None
    mean = float(known.mean())
    unit = float(known.std(ddof=1)) + EPSILON if scale else 1.0
    return [None if reward is None else (reward - mean) / unit for reward in rewards]
