"""What one training step leaves in `metrics.jsonl`: a line per step, for the report, the guards and people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from pydantic import Field

from sentinel.curriculum import Prompt
from sentinel.records import Ending, OriginKind, Outcome, Record, Reward, Trajectory
from sentinel.rollout.episode import Played
from sentinel.solver.alarms import Alarm
from sentinel.solver.shaping import conduct
from sentinel.spec.trainer import Shaping


class Group(NamedTuple):
    """The episodes of one prompt of a step."""

    prompt: Prompt
    refill: bool
    """Whether it was drawn in place of a group without information."""
    played: list[Played]
    advantages: list[float | None] | None
    """One per episode, `None` for a void one; `None` as a whole where the group carries no information."""

    @property
    def solved(self) -> tuple[int, int]:
        """Successes, and episodes that count."""
        known = [each.trajectory.reward.total for each in self.played if each.trajectory.reward]
        return round(sum(known)), len(known)


class Update(NamedTuple):
    """Figures of one optimizer step; means are over its trained tokens."""

    trained_tokens: int
    loss: float
    kl: float | None
    """k3 estimate of KL(policy, iteration's first policy) before the step; `None` where the objective has no KL."""
    entropy: float
    """Nats, of the distributions that the tokens were drawn from."""
    ratio: float
    """Importance ratio of trainer to engine: 1 up to rounding, or one of the two is wrong."""
    ratio_off: float
    """Share of tokens whose importance ratio lies outside [0.9, 1.1]."""
    clipped: float
    """Share of tokens whose gradient the clip takes away."""
    grad_norm: float
    """Before clipping."""


class Skipped(StrEnum):
    """Why a step changed nothing."""

    no_information = "no_information"
    not_finite = "not_finite"


class StepMetrics(Record):
    """One training step."""

    step: int
    groups: int
    """Prompts played, refill included."""
    informative: int
    """Groups whose episodes differ in reward: those that were trained on."""
    informative_share: float
    targeted_share: float
    """Share of the groups whose task was made for a pattern."""
    episodes: int
    """Episodes spent, void ones and refill included: the budget."""
    refill: int
    """Groups that were drawn in place of uninformative ones."""
    void: dict[str, int]
    """Void episodes by reason."""
    reward: float | None
    """Mean of what was maximised, shaping included; `None` where all episodes are void (so below)."""
    success_rate: float | None
    shaping: dict[str, float] = Field(default_factory=dict)
    """Mean of each measure of conduct that has a weight, before weighting; part of the reward."""
    truncated: int = 0
    """Episodes that a limit cut off; left out of the loss where the spec says so."""
    turns: float | None
    """Mean assistant turns of an episode."""
    tokens: float | None
    """Mean tokens of an episode, context included."""
    trained_tokens: int = 0
    loss: float | None = None
    kl: float | None = None
    entropy: float | None = None
    ratio: float | None = None
    ratio_off: float | None = None
    clipped: float | None = None
    grad_norm: float | None = None
    skipped: Skipped | None = None
    collapsed: tuple[str, ...] = ()
    """Conditions that were solved and are lost again."""
    alarms: tuple[Alarm, ...] = ()
    """What the guards found wrong after this step."""
    dev: float | None = None
    """Success rate on the dev tasks after this step, on the steps that were evaluated."""
    dev_start: float | None = None
    """The same for the policy that the iteration started from."""
    dev_episodes: int = 0
    """Episodes of the dev evaluation; an evaluation, so not in the budget."""
    result: bool = False
    """Whether the policy after this step is the stage's result; on no line where the start remained the best."""


def reward_of(trajectory: Trajectory) -> float | None:
    """What training maximises: success plus bounded shaping; `None` for a void episode."""
    return _sum(trajectory.reward) if trajectory.reward and trajectory.outcome is not Outcome.void else None


def _sum(reward: Reward) -> float:
    return reward.total + reward.shaping


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _conduct(trajectories: Sequence[Trajectory], settings: Shaping) -> dict[str, float]:
    if not settings.weights or not trajectories:
        return {}
    measures = [conduct(each, length_tokens=settings.length_tokens) for each in trajectories]
    return {name: float(np.mean([each[name] for each in measures])) for name in settings.weights}


TRUNCATED = frozenset({Ending.malformed, Ending.out_of_context, Ending.out_of_turns})
"""Endings that a limit of the spec brought about."""


def describe(step: int, groups: Sequence[Group], refill: int, update: Update | None, shaping: Shaping) -> StepMetrics:
    """The figures of a step before its dev evaluation."""
    trajectories = [played.trajectory for group in groups for played in group.played]
    valid = [trajectory for trajectory in trajectories if trajectory.outcome is not Outcome.void]
    void = Counter(str(trajectory.void_reason) for trajectory in trajectories if trajectory.outcome is Outcome.void)
    informative = sum(group.advantages is not None for group in groups)
    skipped = None if update else Skipped.not_finite if informative else Skipped.no_information
    return StepMetrics(
        step=step,
        groups=len(groups),
        informative=informative,
        informative_share=informative / len(groups),
        targeted_share=sum(group.prompt.task.origin.kind is OriginKind.targeted for group in groups) / len(groups),
        episodes=len(trajectories),
        refill=refill,
        void=dict(void),
        reward=_mean([reward for each in valid if (reward := reward_of(each)) is not None]),
        success_rate=_mean([float(each.outcome is Outcome.success) for each in valid]),
        shaping=_conduct(valid, shaping),
        truncated=sum(each.ending in TRUNCATED for each in valid),
        turns=_mean([each.counts.turns for each in valid]),
        tokens=_mean([each.counts.tokens for each in valid]),
        skipped=skipped,
        **(update._asdict() if update else {}),
    )
