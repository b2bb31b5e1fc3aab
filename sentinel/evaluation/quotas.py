"""Which patterns an iteration shows, and why some of them have no tasks."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.evaluation.collect import Iteration
from sentinel.records import Pattern, PatternStatus

TOP = 8
HOPELESS = 0.9
"""Share of the episodes with its condition that a pattern spoils, from which on the policy fails there."""


def shown(iteration: Iteration) -> list[Pattern]:
    """The patterns with the greatest support, and all others that tasks were ordered for."""
    ranked = [pattern for pattern in iteration.patterns if pattern.found]
    return [pattern for place, pattern in enumerate(ranked) if place < TOP or iteration.ordered.get(pattern.id)]


def no_tasks(pattern: Pattern, iteration: Iteration, most: int) -> str:
    """Why a pattern has no tasks; empty where it has some, or nothing was ordered at all.

    Args:
        pattern: one of the iteration's.
        iteration: its orders, and the priorities of all patterns.
        most: patterns that may get tasks (`controller.max_patterns`).
    """
    if not iteration.ordered or iteration.ordered.get(pattern.id):
        return ""
    if pattern.status is PatternStatus.resolved:
        return "it hardly strikes any more"
    if any(pattern.id in other.merged for other in iteration.patterns):
        return "those of the pattern it was merged into are for it too"
    contrast = pattern.contrast
    if contrast.episodes and contrast.failures >= HOPELESS * contrast.episodes:
        failed = f"{contrast.failures} of {contrast.episodes}"
        return f"the policy nearly always fails there ({failed}), and training learns little from that"
    place = _rank(pattern, iteration.patterns)
    if place > most:
        return f"it is number {place} by priority, and the first {most} get tasks"
    return "its share by priority is less than one task"


def _rank(pattern: Pattern, patterns: Sequence[Pattern]) -> int:
    return 1 + sum(other.priority > pattern.priority for other in patterns)
