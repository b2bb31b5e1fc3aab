"""What earlier iterations teach: the life of each pattern, and success rates from every episode that was paid for.

What becomes of a pattern is in `sentinel.controller.lives`. Success rates are kept per knob profile and iteration, so
that the rate under any condition, also one found later, can be estimated from diagnosis, training and probes together:
a rate from the eight samples of one diagnosis chases noise. Samples of older iterations count half per iteration of
age, because another policy played them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from sentinel.controller.attribution import Diagnosis
from sentinel.controller.patterns import Condition, condition_of, exposed, group_of, holds
from sentinel.env.traits import characteristics
from sentinel.records import Contrast, Directive, Lift, Part, Pattern, Record, Tally, digest

DECAY = 0.5
"""Weight of a sample per iteration of age."""
PRIOR = 2.0
"""Episodes at the overall success rate that every estimate starts with."""
ENOUGH = 4
"""Episodes without which a success rate says nothing."""
STILL = 0.05
"""Change of the success rate below which two rounds of targeting have moved nothing."""


class Source(StrEnum):
    """What episodes were played for."""

    diagnosis = "diagnosis"
    proposal = "proposal"
    training = "training"


class Sample(Part):
    """Episodes of tasks with equal knobs, in one iteration, for one purpose.

    Voids and failures of others than the agent are not among them.
    """

    iteration: int
    source: Source
    pattern: str | None = None
    """The pattern that the tasks were made for."""
    knobs: dict[str, str | int | bool]
    episodes: int
    successes: int


class Passed(Part):
    """How the tasks that were made for a pattern went, in one iteration, for one purpose."""

    iteration: int
    source: Source
    episodes: int
    successes: int


class Life(Part):
    """A pattern over the iterations."""

    pattern: Pattern
    """With its status and counts in this iteration's diagnosis; its evidence where it was found."""
    struck: Contrast | None = None
    """How often it struck when it was last found."""
    seen: tuple[int, ...]
    """Iterations in which it struck."""
    targeted: tuple[int, ...]
    """Iterations in which tasks were ordered for it."""
    passed: tuple[Passed, ...] = ()
    """What became of those tasks, oldest first."""


class History(Record):
    """All that the Controller remembers; the next iteration starts from it."""

    iteration: int
    tally: Tally
    """Account of this iteration's diagnosis."""
    samples: tuple[Sample, ...]
    lives: tuple[Life, ...]

    def success_rate(self, condition: Condition) -> float:
        """Running success rate of the present policy where the condition holds, smoothed towards the overall rate."""
        return self._rate([sample for sample in self.samples if holds(sample.knobs, condition)])

    def rate_of(self, pattern: Pattern) -> float:
        """The same for the tasks that can show a pattern, those that were made for it among them."""
        return self._rate([sample for sample in self.samples if _shows(sample, pattern)])

    def _rate(self, inside: Sequence[Sample]) -> float:
        won, played = self._weighed(self.samples)
        overall = won / played if played else 0.5
        won, played = self._weighed(inside)
        return (won + PRIOR * overall) / (played + PRIOR)

    def _weighed(self, samples: Sequence[Sample]) -> tuple[float, float]:
        """Successes and episodes, old ones at less than their number."""
        weighted = [(DECAY ** (self.iteration - sample.iteration), sample) for sample in samples]
        successes = sum(weight * sample.successes for weight, sample in weighted)
        return successes, sum(weight * sample.episodes for weight, sample in weighted)

    def life(self, pattern: Pattern) -> Life:
        """What is remembered of a pattern; of one that was not known, what is remembered of those it takes in."""
        known = next((life for life in self.lives if life.pattern.id == pattern.id), None)
        if known is not None:
            return known
        taken = [life for life in self.lives if life.pattern.id in pattern.related]
        seen, targeted = (sorted({i for life in taken for i in getattr(life, name)}) for name in ("seen", "targeted"))
        return Life(pattern=pattern, seen=tuple(seen), targeted=tuple(targeted))

    def stalled(self, pattern: Pattern) -> bool:
        """Whether the last two rounds of targeting have not moved the success rate of the tasks that can show it."""
        targeted = self.life(pattern).targeted
        if len(targeted) < 2:
            return False
        before, now = (self._rate_at(start, pattern) for start in (targeted[-2], self.iteration))
        return before is not None and now is not None and abs(now - before) < STILL

    def _rate_at(self, iteration: int, pattern: Pattern) -> float | None:
        """Success rate about the start of an iteration: its diagnosis, and the training just before it."""
        moments = {(iteration, Source.diagnosis), (iteration - 1, Source.training)}
        samples = [s for s in self.samples if (s.iteration, s.source) in moments and _shows(s, pattern)]
        episodes = sum(sample.episodes for sample in samples)
        return sum(sample.successes for sample in samples) / episodes if episodes >= ENOUGH else None

    def passed(self, pattern: str) -> tuple[Passed, ...]:
        """What became of the tasks that were made for a pattern, by iteration and purpose."""
        episodes: Counter[tuple[int, Source]] = Counter()
        successes: Counter[tuple[int, Source]] = Counter()
        for sample in self.samples:
            if sample.pattern == pattern:
                episodes[sample.iteration, sample.source] += sample.episodes
                successes[sample.iteration, sample.source] += sample.successes
        return tuple(
            Passed(iteration=iteration, source=source, episodes=episodes[place], successes=successes[place])
            for place in sorted(episodes, key=lambda place: (place[0], list(Source).index(place[1])))
            for iteration, source in [place]
        )


def _shows(sample: Sample, pattern: Pattern) -> bool:
    """Whether a sample's tasks can show a pattern: made for it, or of its condition and with the write it is in."""
    return sample.pattern == pattern.id or (
        holds(sample.knobs, condition_of(pattern)) and exposed(sample.knobs, group_of(pattern))
    )


def samples_of(diagnosis: Diagnosis, iteration: int, source: Source) -> list[Sample]:
    """Count diagnosed episodes by knobs and by the pattern that they were made for; sorted."""
    played = [(characteristics(won.task), won.task.origin.pattern, True) for won in diagnosis.successes]
    played += [(lost.knobs, lost.made_for, False) for lost in diagnosis.agent_failures]
    episodes: Counter[tuple[str, str]] = Counter()
    successes: Counter[tuple[str, str]] = Counter()
    knobs = {}
    for own, pattern, success in played:
        key = digest(own), pattern or ""
        knobs[key] = own
        episodes[key] += 1
        successes[key] += success
    return [
        Sample(
            iteration=iteration,
            source=source,
            pattern=key[1] or None,
            knobs=knobs[key],
            episodes=episodes[key],
            successes=successes[key],
        )
        for key in sorted(knobs)
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
                    pattern=quota.pattern,
                    knobs=quota.constraints.values,
                    episodes=probed.episodes,
                    successes=round(probed.episodes * (1 - probed.failure_rate)),
                )
            )
    return samples


def remember(
    previous: History | None, ordered: Directive | None, iteration: int, diagnosis: Diagnosis, samples: Sequence[Sample]
) -> History:
    """Carry the history over to this iteration; the lives are brought up to date by `lives.record`.

    Args:
        previous: the last iteration's history, if any.
        ordered: the last iteration's directive, if the Proposer obeyed it: what was targeted since.
        iteration: the present one.
        diagnosis: the explained batch.
        samples: success counts new since `previous`.
    """
    lives = previous.lives if previous else ()
    targets = {name for quota in ordered.quotas for name in (quota.pattern, *quota.merged)} if ordered else set()
    lives = tuple(
        life.model_copy(update={"targeted": (*life.targeted, iteration - 1)}) if life.pattern.id in targets else life
        for life in lives
    )
    known = previous.samples if previous else ()
    return History(iteration=iteration, tally=diagnosis.tally, samples=(*known, *samples), lives=lives)
