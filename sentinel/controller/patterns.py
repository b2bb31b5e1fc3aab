"""Recurring errors, and the condition under which each occurs, found by contrast with the episodes that went well.

    patterns = find_patterns(profiles_of(diagnosis), min_support=2)
    patterns[0].condition      # {"condition": "cancel/no_reason"}

Failures of one decisive kind, tool and argument are a group. Within a group a greedy search looks for the knob or trait
(`sentinel.env.traits`), or the pair of them, that best separates the episodes which failed this way from all others:
the split with the largest log-likelihood gain over one common rate, less the price of having searched (log of the
number of candidates). An error in a gold write is held against the other tasks with this write, since no other task
could show it. So the most specific condition that keeps the support wins, and chance finds are rare. Episodes
it explains are set aside and the search goes on with the rest. What no condition explains is a pattern of all the tasks
concerned if frequent enough.

The result depends on the set of episodes, not on their order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import log, sqrt
from typing import NamedTuple

from sentinel.controller.attribution import Diagnosis
from sentinel.controller.wording import describe, error_of
from sentinel.env.traits import characteristics
from sentinel.records import Contrast, Evidence, Failure, Label, LabelKind, Pattern, PatternStatus, digest

Knob = str | int | bool
Condition = tuple[tuple[str, Knob], ...]
"""Sorted knob values that must all hold; empty holds always."""

EVIDENCE = 5
"""Places cited per pattern."""
MIN_GAIN = 3.0
"""Nats of log-likelihood, after the price of the search, that a condition must explain."""
STICKY = 0.8
"""Share of the best gain at which a condition known from earlier iterations is kept, so that ids are stable."""
MIN_RATE = 0.05
"""Share of the episodes concerned that a group must make fail, beyond chance, where no contrast tells when."""
SIGMAS = 2.0
"""What chance can do, in standard deviations."""


OF_GOLD_WRITES = frozenset(
    {
        LabelKind.missing_write,
        LabelKind.wrong_argument,
        LabelKind.wrong_record,
        LabelKind.wrong_order,
        LabelKind.false_refusal,
    }
)
"""Errors in a write that the gold answer has."""


class Group(NamedTuple):
    """What goes wrong, whatever the condition."""

    category: LabelKind
    tool: str | None
    argument: str | None

    @classmethod
    def of(cls, label: Label) -> Group:
        """The group of a decisive label."""
        return cls(label.kind, label.tool, label.argument)


class Profile(NamedTuple):
    """Episodes with equal knobs, taken together."""

    knobs: Mapping[str, Knob]
    episodes: int
    failures: Mapping[Group, tuple[Failure, ...]]

    def exposed(self, group: Group) -> bool:
        """Whether the error is possible here: a write can be missing or wrong only where the gold answer has it."""
        return exposed(self.knobs, group)

    def holds(self, condition: Condition) -> bool:
        """Whether the condition holds for these episodes."""
        return holds(self.knobs, condition)


def exposed(knobs: Mapping[str, Knob], group: Group) -> bool:
    """Whether tasks with these knobs can show the error, as far as the knobs tell."""
    tools = knobs.get("tools")
    if group.category not in OF_GOLD_WRITES or group.tool is None or tools is None:
        return True
    return group.tool in str(tools).split("+")


def holds(knobs: Mapping[str, Knob], condition: Condition) -> bool:
    """Whether a task's knobs have all values of a condition."""
    return all(knobs.get(name) == value for name, value in condition)


def pattern_id(group: Group, condition: Condition) -> str:
    """Stable across iterations: what goes wrong, and when."""
    return digest([group.category.value, group.tool, group.argument, dict(condition)])


def find_patterns(profiles: Sequence[Profile], min_support: int, known: Iterable[Pattern] = ()) -> list[Pattern]:
    """All patterns of a batch, by support (largest first); status `new` and priority 0 until the history is consulted.

    Args:
        profiles: the batch by knobs (`profiles_of`).
        min_support: failures that a pattern must explain.
        known: patterns of earlier iterations, whose conditions are preferred where they still explain nearly as much.
    """
    sticky: dict[Group, set[Condition]] = defaultdict(set)
    for pattern in known:
        sticky[group_of(pattern)].add(condition_of(pattern))
    groups = {group for profile in profiles for group in profile.failures}
    patterns = [pattern for group in groups for pattern in _mine(group, profiles, min_support, sticky[group])]
    return sorted(patterns, key=lambda pattern: (-pattern.support, pattern.id))


def group_of(pattern: Pattern) -> Group:
    """What goes wrong in a pattern."""
    tool, argument = next(iter(pattern.tools), None), next(iter(pattern.arguments), None)
    return Group(pattern.category, tool, argument)


def condition_of(pattern: Pattern) -> Condition:
    """When it goes wrong."""
    return tuple(sorted(pattern.condition.items()))


def profiles_of(diagnosis: Diagnosis) -> list[Profile]:
    """The agent's episodes by knobs, sorted; there are far fewer profiles than episodes."""
    failed: dict[str, dict[Group, list[Failure]]] = defaultdict(lambda: defaultdict(list))
    episodes: Counter[str] = Counter()
    knobs: dict[str, Mapping[str, Knob]] = {}
    for success in diagnosis.successes:
        own = characteristics(success.task)
        key = digest(own)
        knobs[key] = own
        episodes[key] += 1
    for failure in diagnosis.agent_failures:
        key = digest(failure.knobs)
        knobs[key] = failure.knobs
        episodes[key] += 1
        failed[key][Group.of(failure.labels[failure.decisive])].append(failure)
    return [
        Profile(knobs[key], episodes[key], {group: tuple(found) for group, found in failed[key].items()})
        for key in sorted(knobs)
    ]


def _mine(group: Group, profiles: Sequence[Profile], min_support: int, known: set[Condition]) -> list[Pattern]:
    """Greedy: the best condition, then the best one for what it leaves."""
    rest, patterns = [profile for profile in profiles if profile.exposed(group)], []
    general = len(rest) == len(profiles)
    while (support := sum(len(profile.failures.get(group, ())) for profile in rest)) >= min_support:
        condition = _best_condition(group, rest, min_support, known)
        if condition is None:
            if not _frequent(support, sum(profile.episodes for profile in rest)):
                break
            condition = ()
        condition = condition if general else _within(condition, group, rest, profiles)
        inside = [profile for profile in rest if profile.holds(condition)]
        if sum(len(profile.failures.get(group, ())) for profile in inside) < min_support:
            break
        patterns.append(_pattern(group, condition, inside, profiles))
        rest = [profile for profile in rest if not profile.holds(condition)]
    return patterns


def _frequent(failures: int, episodes: int) -> bool:
    """Whether the rate is above `MIN_RATE` for all that chance can do: the lower end of Wilson's interval."""
    rate, spread = failures / episodes, SIGMAS**2 / episodes
    centre = rate + spread / 2
    return (centre - SIGMAS * sqrt(rate * (1 - rate) / episodes + spread / (4 * episodes))) / (1 + spread) > MIN_RATE


def _within(condition: Condition, group: Group, rest: Sequence[Profile], profiles: Sequence[Profile]) -> Condition:
    """The condition, narrowed by one knob value where it would hold for tasks that cannot show the error."""
    unexposed = [profile.knobs for profile in profiles if not profile.exposed(group) and profile.holds(condition)]
    if not unexposed:
        return condition
    inside = [profile for profile in rest if profile.holds(condition)]
    struck = _count(group, inside).struck
    foreign = {item for knobs in unexposed for item in knobs.items()}
    fitting = [other for other in struck if len(other) == 1 and other[0] not in foreign]
    best = min(fitting, key=lambda other: (-struck[other], _preference(other, 0.0)), default=())
    return tuple(sorted({*condition, *best}))


def _best_condition(
    group: Group, profiles: Sequence[Profile], min_support: int, known: set[Condition]
) -> Condition | None:
    """The condition with the largest net gain, or a known one that is nearly as good; `None` if chance would do.

    A condition known from earlier iterations was not searched for: where no other is found, its gain pays no price.
    """
    struck, episodes, splits = _count(group, profiles)
    singles = len({split for condition, split in splits.items() if len(condition) == 1})
    total = struck[()], episodes[()]
    price = {1: log(singles or 1), 2: log(max(len(set(splits.values())) - singles, singles, 1)) + 1.0}
    gains = {
        condition: _gain((failures, episodes[condition]), total)
        for condition, failures in struck.items()
        if condition and failures >= min_support
    }
    scores = {condition: gain - price[len(condition)] for condition, gain in gains.items() if len(condition) in price}
    best = min(scores, key=lambda condition: _preference(condition, scores[condition]), default=None)
    if best is not None and scores[best] < MIN_GAIN:
        best = None
    kept = [c for c in known if gains.get(c, 0.0) >= MIN_GAIN and (best is None or scores[c] >= STICKY * scores[best])]
    return min(kept, key=lambda condition: _preference(condition, gains[condition]), default=best)


def _preference(condition: Condition, score: float) -> tuple[float, int, bool, str]:
    """By score; of equal ones the simplest, of equally simple ones the knob `condition`, which generators know best."""
    return -round(score, 9), len(condition), all(name != "condition" for name, _ in condition), repr(condition)


class _Counts(NamedTuple):
    struck: Counter[Condition]
    """Failures of the group."""
    episodes: Counter[Condition]
    splits: dict[Condition, int]
    """Which profiles the condition holds for, as bits: conditions of one split are one candidate."""


def _count(group: Group, profiles: Sequence[Profile]) -> _Counts:
    """Failures of the group, and episodes, per candidate condition; the empty one counts all."""
    struck: Counter[Condition] = Counter()
    episodes: Counter[Condition] = Counter()
    splits: dict[Condition, int] = defaultdict(int)
    candidates = {c for profile in profiles if profile.failures.get(group) for c in _conditions(profile.knobs)}
    for place, profile in enumerate(profiles):
        failures = len(profile.failures.get(group, ()))
        for condition in _conditions(profile.knobs):
            if condition in candidates:
                struck[condition] += failures
                episodes[condition] += profile.episodes
                splits[condition] |= 1 << place
    return _Counts(struck, episodes, splits)


def _conditions(knobs: Mapping[str, Knob]) -> list[Condition]:
    items = sorted(knobs.items())
    return [(), *((item,) for item in items), *combinations(items, 2)]


def _gain(inside: tuple[int, int], total: tuple[int, int]) -> float:
    """Log-likelihood of two rates over one; 0 where the condition does not concentrate the failures.

    Args:
        inside: failures and episodes where the condition holds.
        total: failures and episodes in all.
    """
    outside = total[0] - inside[0], total[1] - inside[1]
    if not outside[1] or inside[0] * outside[1] <= outside[0] * inside[1]:
        return 0.0
    return _likelihood(*inside) + _likelihood(*outside) - _likelihood(*total)


def _likelihood(failures: int, episodes: int) -> float:
    """Log-likelihood of a Bernoulli sample at its own rate."""
    return sum(count * log(count / episodes) for count in (failures, episodes - failures) if count)


def _pattern(group: Group, condition: Condition, inside: Sequence[Profile], profiles: Sequence[Profile]) -> Pattern:
    """The pattern of the failures that this condition explains."""
    failures = [failure for profile in inside for failure in profile.failures.get(group, ())]
    contrast = contrast_of(group, condition, profiles)
    places = sorted((failure.trajectory, failure.labels[failure.decisive].turn) for failure in failures)
    return Pattern(
        id=pattern_id(group, condition),
        category=group.category,
        description=describe(*group, dict(condition), contrast),
        error=error_of(*group, dict(condition)),
        tools=(group.tool,) if group.tool else (),
        arguments=(group.argument,) if group.argument else (),
        condition=dict(condition),
        in_play=tuple(tool for tool in (group.tool,) if tool and all(tool in failure.tools for failure in failures)),
        support=len(failures),
        contrast=contrast,
        evidence=tuple(Evidence(trajectory=name, turn=turn) for name, turn in places[:EVIDENCE]),
        status=PatternStatus.new,
        priority=0.0,
    )


def contrast_of(group: Group, condition: Condition, profiles: Sequence[Profile]) -> Contrast:
    """How often the group strikes inside and outside of a condition."""

    def count(inside: bool) -> tuple[int, int]:
        chosen = [profile for profile in profiles if profile.holds(condition) == inside]
        return sum(len(p.failures.get(group, ())) for p in chosen), sum(p.episodes for p in chosen)

    (failures, episodes), (failures_elsewhere, episodes_elsewhere) = count(True), count(False)
    failed = sum(len(some) for p in profiles if p.holds(condition) for some in p.failures.values())
    return Contrast(
        failures=failures,
        episodes=episodes,
        failures_elsewhere=failures_elsewhere,
        episodes_elsewhere=episodes_elsewhere,
        otherwise=failed - failures,
    )
