"""What becomes of a pattern from one iteration to the next: every known one is measured, whether it is found or not.

    patterns = age(history, find_patterns(profiles, 2), profiles, min_support=2)
    history = record(history, patterns)

A pattern that is found is new, persistent or regressed. It is not new where most of what it strikes was known under
another condition: then that one is `absorbed`. A known pattern that is not found is `resolved` only where enough
episodes could have shown it and chance would hardly have spared them at the rate of before; where most fail by another
error first, or few were played, it is `unclear`, else `rare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from sentinel.controller.history import History, Life
from sentinel.controller.patterns import Profile, condition_of, contrast_of, group_of
from sentinel.controller.wording import describe
from sentinel.records import Contrast, Pattern, PatternStatus

TELLING = 8
"""Episodes that could show a pattern without which its absence says nothing."""
CHANCE = 0.05
"""Probability of so few failures at the earlier rate, from which on a pattern is not called resolved."""
MOST = 0.5
"""Share of its failures from which on a pattern is part of another one."""


def age(history: History, found: Sequence[Pattern], profiles: Sequence[Profile], min_support: int) -> list[Pattern]:
    """Give every pattern its status; the known ones that were not found follow, measured, without evidence.

    Args:
        history: what was known before.
        found: the patterns of this diagnosis.
        profiles: its episodes.
        min_support: failures that make a pattern.
    """
    lives = {life.pattern.id: life for life in history.lives}
    ids = {pattern.id for pattern in found}
    absent = [life for key, life in sorted(lives.items()) if key not in ids]
    present = [_present(pattern, lives, absent, profiles) for pattern in found]
    return present + [_measured(life, present, profiles, min_support) for life in absent]


def _present(pattern: Pattern, lives: dict[str, Life], absent: Sequence[Life], profiles: Sequence[Profile]) -> Pattern:
    """A found pattern with its status; one that was known under other conditions goes on with their lives."""
    if pattern.id in lives:
        return pattern.model_copy(update={"status": _again([lives[pattern.id]])})
    taken = [life for life in absent if _within(life.pattern, pattern, profiles)]
    known = sum(_shared(life.pattern, pattern, profiles) for life in taken)
    if not taken or known < MOST * pattern.contrast.failures:
        return pattern
    related = tuple(life.pattern.id for life in taken)
    return pattern.model_copy(update={"status": _again(taken), "related": related})


def _again(lives: Sequence[Life]) -> PatternStatus:
    resolved = all(life.pattern.status is PatternStatus.resolved for life in lives)
    return PatternStatus.regressed if resolved else PatternStatus.persistent


def _within(part: Pattern, whole: Pattern, profiles: Sequence[Profile]) -> bool:
    """Whether most of what a pattern strikes now belongs to another one of the same error."""
    if group_of(part) != group_of(whole):
        return False
    failures = _shared(part, part, profiles)
    return failures > 0 and _shared(part, whole, profiles) >= MOST * failures


def _shared(one: Pattern, other: Pattern, profiles: Sequence[Profile]) -> int:
    """Failures where both conditions hold."""
    group, both = group_of(one), (condition_of(one), condition_of(other))
    return sum(len(p.failures.get(group, ())) for p in profiles if all(p.holds(condition) for condition in both))


def _measured(life: Life, present: Sequence[Pattern], profiles: Sequence[Profile], min_support: int) -> Pattern:
    """A known pattern that was not found, as this diagnosis shows it."""
    known = life.pattern
    group, condition = group_of(known), condition_of(known)
    contrast = contrast_of(group, condition, profiles)
    host = next((pattern for pattern in present if _within(known, pattern, profiles)), None)
    host = host if contrast.failures >= min_support else None
    return known.model_copy(
        update={
            "status": PatternStatus.absorbed if host else _absence(life, contrast, min_support),
            "related": (host.id,) if host else (),
            "support": contrast.failures,
            "contrast": contrast,
            "evidence": (),
            "priority": 0.0,
            "description": describe(*group, known.condition, contrast),
        }
    )


def _absence(life: Life, contrast: Contrast, min_support: int) -> PatternStatus:
    """What it means that a known pattern was not found."""
    telling = contrast.episodes - contrast.otherwise
    before = life.struck or life.pattern.contrast
    rate = before.failures / max(before.episodes - before.otherwise, 1)
    if contrast.failures < min_support:
        if life.pattern.status is PatternStatus.resolved:
            return PatternStatus.resolved
        if telling < TELLING:
            return PatternStatus.unclear
        if _chance(contrast.failures, telling, rate) < CHANCE:
            return PatternStatus.resolved
    return PatternStatus.rare


def _chance(failures: int, episodes: int, rate: float) -> float:
    """Probability of at most so many failures at a rate (the binomial distribution)."""
    return sum(comb(episodes, k) * rate**k * (1 - rate) ** (episodes - k) for k in range(failures + 1))


def record(history: History, patterns: Sequence[Pattern]) -> History:
    """The history with the lives as this iteration leaves them, sorted by pattern."""
    lives: dict[str, Life] = {life.pattern.id: life for life in history.lives}
    for pattern in patterns:
        life = history.life(pattern)
        lives[pattern.id] = life.model_copy(
            update={
                "pattern": pattern,
                "struck": pattern.contrast if pattern.found else life.struck,
                "seen": (*life.seen, *((history.iteration,) if pattern.found else ())),
            }
        )
    lives = {key: life.model_copy(update={"passed": history.passed(key)}) for key, life in lives.items()}
    return history.model_copy(update={"lives": tuple(lives[key] for key in sorted(lives))})
