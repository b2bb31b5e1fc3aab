"""What earlier iterations teach: the life of each pattern, and success rates from every episode that was paid for.

A pattern is new, persistent, resolved or regressed. Success rates are kept per knob profile and iteration, so that the
rate under any condition, also one found later, can be estimated from diagnosis, training and probes together: a rate
from the eight samples of one diagnosis chases noise. Samples of older iterations count half per iteration of age,
because another policy played them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum

from sentinel.controller.attribution import Diagnosis
from sentinel.controller.patterns import Condition, Profile, condition_of, contrast_of, group_of, holds
from sentinel.controller.wording import describe
from sentinel.env.traits import characteristics
from sentinel.records import (
    Directive,
    Lift,
    Outcome,
    Part,
    Pattern,
    PatternStatus,
    Record,
    Tally,
    Trajectory,
    digest,
)

DECAY = 0.5
"""Weight of a sample per iteration of age."""
PRIOR = 2.0
"""Episodes at the overall success rate that every estimate starts with."""
ENOUGH = 4
"""Episodes under its condition without which a pattern's absence says nothing."""
STILL = 0.05
"""Change of the success rate below which two rounds of targeting have moved nothing."""


class Source(StrEnum):
    """What episodes were played for."""

    diagnosis = "diagnosis"
    proposal = "proposal"
    training = "training"


class Sample(Part):
    """Episodes of tasks with equal knobs, in one iteration, for one purpose; voids are not among them."""

    iteration: int
    source: Source
    knobs: dict[str, str | int | bool]
    episodes: int
    successes: int


class Life(Part):
    """A pattern over the iterations."""

    pattern: Pattern
    """As it was last seen, with its present status."""
    seen: tuple[int, ...]
    """Iterations in which it struck."""
    targeted: tuple[int, ...]
    """Iterations in which tasks were ordered for it."""


class History(Record):
    """All that the Controller remembers; the next iteration starts from it."""

    iteration: int
    tally: Tally
    """Account of this iteration's diagnosis."""
    samples: tuple[Sample, ...]
    lives: tuple[Life, ...]

    def success_rate(self, condition: Condition) -> float:
        """Running success rate of the present policy where the condition holds, smoothed towards the overall rate."""
        weighted = [(DECAY ** (self.iteration - sample.iteration), sample) for sample in self.samples]
        episodes = sum(weight * sample.episodes for weight, sample in weighted)
        overall = sum(weight * sample.successes for weight, sample in weighted) / episodes if episodes else 0.5
        inside = [(weight, sample) for weight, sample in weighted if holds(sample.knobs, condition)]
        won = sum(weight * sample.successes for weight, sample in inside) + PRIOR * overall
        return won / (sum(weight * sample.episodes for weight, sample in inside) + PRIOR)

    def stalled(self, pattern: Pattern) -> bool:
        """Whether the last two rounds of targeting have not moved the success rate under the pattern's condition."""
        targeted = next((life.targeted for life in self.lives if life.pattern.id == pattern.id), ())
        if len(targeted) < 2:
            return False
        before, now = (self._rate_at(start, condition_of(pattern)) for start in (targeted[-2], self.iteration))
        return before is not None and now is not None and abs(now - before) < STILL

    def _rate_at(self, iteration: int, condition: Condition) -> float | None:
        """Success rate about the start of an iteration: its diagnosis, and the training just before it."""
        moments = {(iteration, Source.diagnosis), (iteration - 1, Source.training)}
        samples = [s for s in self.samples if (s.iteration, s.source) in moments and holds(s.knobs, condition)]
        episodes = sum(sample.episodes for sample in samples)
        return sum(sample.successes for sample in samples) / episodes if episodes >= ENOUGH else None


def samples_of(trajectories: Iterable[Trajectory], iteration: int, source: Source) -> list[Sample]:
    """Count episodes by knobs, voids left out; sorted."""
    episodes: Counter[str] = Counter()
    successes: Counter[str] = Counter()
    knobs = {}
    for played in trajectories:
        if played.outcome is not Outcome.void:
            own = characteristics(played.task)
            key = digest(own)
            knobs[key] = own
            episodes[key] += 1
            successes[key] += played.outcome is Outcome.success
    return [
        Sample(
            iteration=iteration,
            source=source,
            knobs=knobs[key],
            episodes=episodes[key],
            successes=successes[key],
        )
        for key in sorted(knobs)
    ]


def diagnosis_samples(profiles: Sequence[Profile], iteration: int) -> list[Sample]:
    """The diagnosis itself as samples, without the failures of others than the agent."""
    return [
        Sample(
            iteration=iteration,
            source=Source.diagnosis,
            knobs=dict(profile.knobs),
            episodes=profile.episodes,
            successes=profile.episodes - sum(map(len, profile.failures.values())),
        )
        for profile in profiles
    ]


def probe_samples(lift: Lift, ordered: Directive) -> list[Sample]:
    """The Proposer's probes as samples: all that is known of a candidate's knobs is what was ordered."""
    samples = []
    for quota in ordered.quotas:
        probed = lift.patterns.get(quota.pattern)
        if probed is not None and probed.failure_rate is not None:
            samples.append(
                Sample(
                    iteration=ordered.iteration,
                    source=Source.proposal,
                    knobs=quota.constraints.values,
                    episodes=probed.episodes,
                    successes=round(probed.episodes * (1 - probed.failure_rate)),
                )
            )
    return samples


def remember(
    previous: History | None, ordered: Directive | None, iteration: int, diagnosis: Diagnosis, samples: Sequence[Sample]
) -> History:
    """Carry the history over to this iteration; the lives are brought up to date by `age`.

    Args:
        previous: the last iteration's history, if any.
        ordered: the last iteration's directive, if the Proposer obeyed it: what was targeted since.
        iteration: the present one.
        diagnosis: the explained batch.
        samples: success counts new since `previous`.
    """
    lives = previous.lives if previous else ()
    targets = {quota.pattern for quota in ordered.quotas} if ordered else set()
    lives = tuple(
        life.model_copy(update={"targeted": (*life.targeted, iteration - 1)}) if life.pattern.id in targets else life
        for life in lives
    )
    known = previous.samples if previous else ()
    return History(iteration=iteration, tally=diagnosis.tally, samples=(*known, *samples), lives=lives)


def age(history: History, found: Sequence[Pattern], profiles: Sequence[Profile], min_support: int) -> list[Pattern]:
    """Give every pattern its status; patterns that have disappeared since come back once more, as resolved."""
    lives = {life.pattern.id: life for life in history.lives}
    present = [pattern.model_copy(update={"status": _status(lives, pattern)}) for pattern in found]
    ids = {pattern.id for pattern in found}
    absent = [life.pattern for key, life in sorted(lives.items()) if key not in ids]
    gone = [_resolve(pattern, profiles) for pattern in absent if _disappeared(pattern, profiles, min_support)]
    return present + gone


def _status(lives: dict[str, Life], pattern: Pattern) -> PatternStatus:
    if pattern.id not in lives:
        return PatternStatus.new
    resolved = lives[pattern.id].pattern.status is PatternStatus.resolved
    return PatternStatus.regressed if resolved else PatternStatus.persistent


def _disappeared(pattern: Pattern, profiles: Sequence[Profile], min_support: int) -> bool:
    """Enough episodes under its condition, and hardly any of them failed this way."""
    contrast = contrast_of(group_of(pattern), condition_of(pattern), profiles)
    fresh = pattern.status is not PatternStatus.resolved
    return fresh and contrast.episodes >= ENOUGH and contrast.failures < min_support


def _resolve(pattern: Pattern, profiles: Sequence[Profile]) -> Pattern:
    group = group_of(pattern)
    contrast = contrast_of(group, condition_of(pattern), profiles)
    return pattern.model_copy(
        update={
            "status": PatternStatus.resolved,
            "support": contrast.failures,
            "contrast": contrast,
            "evidence": (),
            "priority": 0.0,
            "description": describe(*group, pattern.condition, contrast),
        }
    )


def record(history: History, patterns: Sequence[Pattern]) -> History:
    """The history with the lives as this iteration leaves them, sorted by pattern."""
    lives: dict[str, Life] = {life.pattern.id: life for life in history.lives}
    seen: dict[str, tuple[int, ...]] = defaultdict(tuple, {key: life.seen for key, life in lives.items()})
    for pattern in patterns:
        struck = () if pattern.status is PatternStatus.resolved else (history.iteration,)
        targeted = lives[pattern.id].targeted if pattern.id in lives else ()
        lives[pattern.id] = Life(pattern=pattern, seen=(*seen[pattern.id], *struck), targeted=targeted)
    return history.model_copy(update={"lives": tuple(lives[key] for key in sorted(lives))})
