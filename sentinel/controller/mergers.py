"""Several patterns as one: what they have in common is the condition, and the counts are taken anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sentinel.controller.patterns import EVIDENCE, Condition, Profile, condition_of, contrast_of, group_of
from sentinel.records import Contrast, Evidence, Pattern


def merged(patterns: Sequence[Pattern], profiles: Sequence[Profile]) -> Pattern | None:
    """The patterns as one under the id of the first; `None` where what they have in common tells nothing.

    A failure shows one pattern only, so supports add up, and so do the failures of different errors in one contrast.

    Args:
        patterns: at least one.
        profiles: the batch that they were found in.
    """
    first, *others = patterns
    if not others:
        return first
    condition = _common(map(condition_of, patterns))
    contrast = _contrast(patterns, condition, profiles)
    if any(pattern.condition for pattern in patterns) and not (condition and _concentrates(contrast)):
        return None
    places = {(place.trajectory, place.turn) for pattern in patterns for place in pattern.evidence}
    in_play = [name for name in first.in_play if all(name in pattern.in_play for pattern in others)]
    return first.model_copy(
        update={
            "tools": _union(pattern.tools for pattern in patterns),
            "arguments": _union(pattern.arguments for pattern in patterns),
            "condition": dict(condition),
            "in_play": tuple(in_play),
            "support": sum(pattern.support for pattern in patterns),
            "contrast": contrast,
            "evidence": tuple(Evidence(trajectory=name, turn=turn) for name, turn in sorted(places)[:EVIDENCE]),
            "merged": tuple(pattern.id for pattern in others),
        }
    )


def _common(conditions: Iterable[Condition]) -> Condition:
    return tuple(sorted(set.intersection(*map(set, conditions))))


def _union(names: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))


def _contrast(patterns: Sequence[Pattern], condition: Condition, profiles: Sequence[Profile]) -> Contrast:
    contrasts = [contrast_of(group, condition, profiles) for group in {group_of(pattern) for pattern in patterns}]
    failures = sum(contrast.failures for contrast in contrasts)
    return contrasts[0].model_copy(
        update={
            "failures": failures,
            "otherwise": contrasts[0].failures + contrasts[0].otherwise - failures,
            "failures_elsewhere": sum(contrast.failures_elsewhere for contrast in contrasts),
        }
    )


def _concentrates(contrast: Contrast) -> bool:
    """Whether the errors strike more often where the condition holds."""
    return contrast.failures * contrast.episodes_elsewhere > contrast.failures_elsewhere * contrast.episodes or (
        not contrast.episodes_elsewhere and contrast.failures > 0
    )
