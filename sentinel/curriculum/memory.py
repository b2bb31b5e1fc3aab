"""Running success rates of tasks and conditions, over every episode that was paid for, and what they did over time.

    known = Condition().after(successes=3, trials=8, trained=True)
    known.rate                    # 0.44: shrunk towards one half by `PRIOR` pseudo-episodes
    known.stalled(patience=16, gain=0.15), known.collapsed(solved=0.8, share=0.5)

Old counts fade, because the policy changes as it learns. A rate is thus an average over about the last 80 episodes:
that from the eight episodes of one diagnosis chases noise (facts/tiny-policy.md §4).
"""

from __future__ import annotations

from typing import Self

from pydantic import Field

from sentinel.records import Part, Record

PRIOR = 8.0
"""Pseudo-episodes of an estimate: a condition starts at one half, a task at its condition's rate."""
FADE = 0.9
"""What a count is worth `FADED_PER` episodes later."""
FADED_PER = 8
ENOUGH = 16.0
"""Faded episodes that make a rate worth remembering as a condition's best."""
HOPEFUL = 0.5
"""Rate from which on a condition never counts as stalled: what is left to learn shrinks by itself."""


class Tried(Part):
    """Faded outcomes."""

    successes: float = 0.0
    trials: float = 0.0
    groups: int = 0
    """Groups played in training; what diagnosis and probes played is in the counts only."""

    def estimate(self, prior: float) -> float:
        """Success rate, shrunk towards a prior."""
        return (self.successes + PRIOR * prior) / (self.trials + PRIOR)

    def after(self, successes: int, trials: int, trained: bool) -> Self:
        """With the outcome of one more group."""
        fade = FADE ** (trials / FADED_PER)
        return self.model_copy(
            update={
                "successes": fade * self.successes + successes,
                "trials": fade * self.trials + trials,
                "groups": self.groups + trained,
            }
        )


class Attempted(Tried):
    """What is known of one task."""

    parked_at: float | None = None
    """Rate of its condition when its episodes had all failed, the last time that this was so; `None` if it is not."""


class Condition(Tried):
    """What is known of the tasks of one condition together."""

    best: float = 0.0
    """Highest running rate so far."""
    mark: float = 1.0
    """Lowest running rate since the last improvement."""
    since: int = 0
    """Training groups since then."""

    @property
    def rate(self) -> float:
        """Running success rate."""
        return self.estimate(0.5)

    def after(self, successes: int, trials: int, trained: bool) -> Self:
        """With the outcome of one more group."""
        known = super().after(successes, trials, trained)
        best = max(known.best, known.rate) if known.trials >= ENOUGH else known.best
        update = {"best": best, "mark": min(known.mark, known.rate), "since": known.since + trained}
        return known.model_copy(update=update)

    def noted(self, gain: float) -> Self:
        """With an improvement by `gain`, if there was one, as the new mark."""
        improved = self.rate >= self.mark + gain
        return self.model_copy(update={"mark": self.rate, "since": 0}) if improved else self

    def stalled(self, patience: int) -> bool:
        """Whether it is mostly failed, and so many groups have not improved it."""
        return self.since >= patience and self.rate < HOPEFUL

    def collapsed(self, solved: float, share: float) -> bool:
        """Whether it once was solved, and its rate has fallen below this share of its best."""
        return self.best >= solved and self.rate < share * self.best


class Memory(Record):
    """All that a curriculum remembers: `memory.json`, and a part of every training checkpoint."""

    tasks: dict[str, Attempted] = Field(default_factory=dict)
    conditions: dict[str, Condition] = Field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    """New tasks that the injection cap holds back, in the order in which they come in."""
