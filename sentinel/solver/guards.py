"""What keeps a run from ending worse than it began.

The dev tasks judge the policy every few steps, always with the same random numbers, and the best policy seen is the
result; the one the iteration started from is a candidate too. A loss or gradient that is not finite costs its step, and
too many of them end the run. So do the alarms that say that going on is pointless (`sentinel.solver.alarms`); others
only warn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sentinel.records import Outcome
from sentinel.rollout.episode import Played
from sentinel.solver.alarms import MEANING, STOPPING, Alarm
from sentinel.solver.metrics import StepMetrics
from sentinel.spec.trainer import Alarms

EXHAUSTED = 3
"""Steps running without an informative group, after which the run ends."""
MAX_NOT_FINITE = 3
"""Steps with a loss or gradient that is not finite, after which the run ends."""


class DevScore(NamedTuple):
    """Result of a dev evaluation."""

    value: float | None
    """Share of successes among the episodes that are not void; `None` where all are."""
    void: int


def dev_score(played: Sequence[Played]) -> DevScore:
    """Score the episodes of a dev evaluation."""
    outcomes = [each.trajectory.outcome for each in played if each.trajectory.outcome is not Outcome.void]
    value = outcomes.count(Outcome.success) / len(outcomes) if outcomes else None
    return DevScore(value, len(played) - len(outcomes))


def void_share(metrics: StepMetrics) -> float:
    """Share of a step's episodes that say nothing about the policy."""
    return sum(metrics.void.values()) / metrics.episodes


def alarms(history: Sequence[StepMetrics], limits: Alarms, best: float | None) -> tuple[Alarm, ...]:
    """What is wrong after the last of these steps; `best` is the best dev score so far."""
    first, last = history[0], history[-1]
    found = {
        Alarm.kl: last.kl is not None and last.kl > limits.kl,
        Alarm.entropy: _below(last.entropy, first.entropy, limits.entropy),
        Alarm.length: _below(first.tokens, last.tokens, 1.0 / limits.length)
        or _below(last.tokens, first.tokens, 1.0 / limits.length),
        Alarm.void: len(history) > 1 and all(void_share(each) > limits.void for each in history[-2:]),
        Alarm.informative: last.informative_share < limits.informative,
        Alarm.exhausted: len(history) >= EXHAUSTED and not any(each.informative for each in history[-EXHAUSTED:]),
        Alarm.ratio: last.ratio_off is not None and last.ratio_off > limits.ratio,
        Alarm.dev_drop: last.dev is not None and best is not None and last.dev < best - limits.dev_drop,
        Alarm.collapse: bool(set(last.collapsed).difference(*(each.collapsed for each in history[-2:-1]))),
    }
    return tuple(alarm for alarm, rings in found.items() if rings)


def _below(value: float | None, other: float | None, share: float) -> bool:
    return value is not None and other is not None and value < share * other


@dataclass
class Guards:
    """The running judgement; all of it goes into the checkpoint."""

    best_step: int | None = None
    """Step whose policy is the result so far; 0 is the start."""
    best_value: float | None = None
    not_finite: int = 0
    """Steps skipped so far because of a loss or gradient that is not finite."""

    stopped_by: str | None = None
    """The alarm that ended the run."""

    def heed(self, found: Sequence[Alarm]) -> None:
        """Take in the alarms of a step."""
        self.stopped_by = next((alarm.value for alarm in found if alarm in STOPPING), self.stopped_by)

    def improved(self, step: int, score: DevScore) -> bool:
        """Note a dev score; whether this step's policy is now the best.

        Of equal scores the later wins: it has seen more training. The first one always wins, so there is a result.
        """
        better = score.value is not None and (self.best_value is None or score.value >= self.best_value)
        if self.best_step is not None and not better:
            return False
        self.best_step, self.best_value = step, score.value
        return True

    @property
    def stop(self) -> str | None:
        """Why the run has to end now, in words for a person; `None` to go on."""
        if self.stopped_by:
            return (
                f"alarm '{self.stopped_by}': {MEANING[Alarm(self.stopped_by)]}. Training ends, and the best policy so "
                f"far (step {self.best_step}) is the result"
            )
        if self.not_finite < MAX_NOT_FINITE:
            return None
        return (
            f"{self.not_finite} steps had a loss or gradient that is not finite: training ends, and the best policy so "
            f"far (step {self.best_step}) is the result; a smaller trainer.learning_rate is the usual remedy"
        )
