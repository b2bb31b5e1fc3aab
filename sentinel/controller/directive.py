"""What the Proposer is asked for: how many tasks for which pattern, with which knobs, and the same in words.

    priority = frequency x persistence x learnability

Frequency is the share of the agent's episodes that show a pattern; persistence grows with the iterations in which it
struck. Learnability is 4p(1-p) of the running success rate p of the tasks that can show it: what always fails gives
GRPO no signal, and what hardly ever fails is not worth a task. It has a floor, because a success rate of zero in few
episodes is no proof. A pattern that two rounds of targeting have not moved is dampened: choosing the lowest rates
chases failures that training cannot mend (facts/tiny-policy.md §4, §7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentinel.controller.history import History
from sentinel.controller.wording import instruct
from sentinel.env.traits import STATE
from sentinel.records import Constraints, Directive, Pattern, PatternStatus, Quota

FLOOR = 0.05
"""Least learnability."""
DAMPING = 0.25
"""Factor for a pattern that targeting has not moved."""
INSISTENCE = 0.25
"""What every further iteration in which a pattern strikes adds to its weight."""
STUBBORN = 1.5
"""Greatest weight; that of a pattern which was resolved before and is back."""


def prioritise(patterns: Sequence[Pattern], history: History) -> list[Pattern]:
    """The patterns with their priorities, highest first."""
    weighed = [pattern.model_copy(update={"priority": _priority(pattern, history)}) for pattern in patterns]
    return sorted(weighed, key=lambda pattern: (-pattern.priority, -pattern.support, pattern.id))


def _priority(pattern: Pattern, history: History) -> float:
    frequency = pattern.support / max(history.tally.kept, 1)
    rate = history.rate_of(pattern)
    learnability = max(FLOOR, 4 * rate * (1 - rate))
    damping = DAMPING if history.stalled(pattern) else 1.0
    return round(frequency * _persistence(pattern, history) * learnability * damping, 6)


def _persistence(pattern: Pattern, history: History) -> float:
    """Weight of a pattern's life before this iteration."""
    match pattern.status:
        case PatternStatus.new:
            return 1.0
        case PatternStatus.persistent:
            before = sum(iteration < history.iteration for iteration in history.life(pattern).seen)
            return min(1.0 + INSISTENCE * before, STUBBORN)
        case PatternStatus.regressed:
            return STUBBORN
        case _:
            return 0.0  # not found in this diagnosis


def direct(
    patterns: Sequence[Pattern],
    history: History,
    tasks: int,
    explore_share: float,
    max_patterns: int,
    instructions: Mapping[str, str] | None = None,
) -> Directive:
    """The order to the Proposer.

    Args:
        patterns: with their priorities, highest first (`prioritise`).
        history: the running success rates.
        tasks: candidates to be made in this iteration.
        explore_share: share of them without a target; all of them where there is no pattern.
        max_patterns: patterns that may get a quota.
        instructions: pattern id -> what a language model adds to the words of its quota.
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
            instruction=f"{_in_words(pattern, history)} {(instructions or {}).get(pattern.id, '')}".rstrip(),
        )
        for pattern, share in zip(chosen, shares, strict=True)
        if share
    )
    return Directive(iteration=history.iteration, quotas=quotas, explore=tasks - sum(quota.tasks for quota in quotas))


def _in_words(pattern: Pattern, history: History) -> str:
    earlier = history.passed(pattern.id)
    tried, passed = sum(one.episodes for one in earlier), sum(one.successes for one in earlier)
    return instruct(pattern, history.rate_of(pattern), tried, passed)


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
