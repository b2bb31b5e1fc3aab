"""What the Proposer is asked for: how many tasks for which pattern, with which knobs, and the same in words.

    priority = frequency x persistence x learnability

Learnability is 4p(1-p) of the running success rate p under the pattern's condition: what always fails gives GRPO no
signal, and what hardly ever fails is not worth a task. It has a floor, because a success rate of zero in few episodes
is no proof. A pattern that two rounds of targeting have not moved is dampened: choosing the lowest rates chases
failures that training cannot mend (facts/tiny-policy.md §4, §7).
"""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.controller.history import History
from sentinel.controller.patterns import condition_of
from sentinel.controller.wording import instruct
from sentinel.env.traits import STATE
from sentinel.records import Constraints, Directive, Pattern, PatternStatus, Quota

FLOOR = 0.05
"""Least learnability."""
DAMPING = 0.25
"""Factor for a pattern that targeting has not moved."""
PERSISTENCE = {
    PatternStatus.new: 1.0,
    PatternStatus.persistent: 1.25,
    PatternStatus.regressed: 1.5,
    PatternStatus.resolved: 0.0,
}
"""Weight of a pattern's status."""


def prioritise(patterns: Sequence[Pattern], history: History) -> list[Pattern]:
    """The patterns with their priorities, highest first."""
    weighed = [pattern.model_copy(update={"priority": _priority(pattern, history)}) for pattern in patterns]
    return sorted(weighed, key=lambda pattern: (-pattern.priority, -pattern.support, pattern.id))


def _priority(pattern: Pattern, history: History) -> float:
    frequency = pattern.support / max(history.tally.kept, 1)
    rate = history.success_rate(condition_of(pattern))
    learnability = max(FLOOR, 4 * rate * (1 - rate))
    damping = DAMPING if history.stalled(pattern) else 1.0
    return round(frequency * PERSISTENCE[pattern.status] * learnability * damping, 6)


def direct(
    patterns: Sequence[Pattern], history: History, tasks: int, explore_share: float, max_patterns: int
) -> Directive:
    """The order to the Proposer.

    Args:
        patterns: with their priorities, highest first (`prioritise`).
        history: the running success rates.
        tasks: candidates to be made in this iteration.
        explore_share: share of them without a target; all of them where there is no pattern.
        max_patterns: patterns that may get a quota.
    """
    chosen = [pattern for pattern in patterns if pattern.priority > 0][:max_patterns]
    targeted = tasks - round(tasks * explore_share) if chosen else 0
    shares = apportion([pattern.priority for pattern in chosen], targeted)
    quotas = tuple(
        Quota(
            pattern=pattern.id,
            tasks=share,
            merged=pattern.merged,
            constraints=constraints_of(pattern),
            instruction=instruct(pattern, history.success_rate(condition_of(pattern))),
        )
        for pattern, share in zip(chosen, shares, strict=True)
        if share
    )
    return Directive(iteration=history.iteration, quotas=quotas, explore=tasks - sum(quota.tasks for quota in quotas))


def constraints_of(pattern: Pattern) -> Constraints:
    """A pattern's condition and tools in terms that a generator can execute."""
    state = {name: value for name, value in pattern.condition.items() if name in STATE}
    knobs = {name: value for name, value in pattern.condition.items() if name not in STATE}
    return Constraints(tools=pattern.in_play, state=state, knobs=knobs)


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Whole shares in proportion to the weights by largest remainder; of equal remainders the first wins."""
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    exact = [total * weight / whole for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda place: (shares[place] - exact[place], place))
    for place in by_remainder[: total - sum(shares)]:
        shares[place] += 1
    return shares
