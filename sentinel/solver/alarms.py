"""What can be wrong with a training, what it means, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Alarm(StrEnum):
    """A figure beyond its threshold (`sentinel.spec.trainer.Alarms`)."""

    kl = "kl"
    entropy = "entropy"
    length = "length"
    void = "void"
    informative = "informative"
    exhausted = "exhausted"
    ratio = "ratio"
    dev_drop = "dev_drop"
    collapse = "collapse"


STOPPING = frozenset({Alarm.kl, Alarm.void, Alarm.exhausted, Alarm.dev_drop})
"""Alarms after which the run ends, and the best policy so far is the result."""

MEANING: Mapping[Alarm, str] = MappingProxyType(
    {
        Alarm.kl: "the policy has run far away from the iteration's first one, mostly into text that no reward asked "
        "for: lower trainer.learning_rate, or raise trainer.kl",
        Alarm.entropy: "the policy hardly varies its answers any more, so groups will soon carry no information: lower "
        "trainer.learning_rate, or raise the upper trainer.clip",
        Alarm.length: "episodes have another length than at the start, which often is a way round the task (loops, or "
        "giving up early): read some trajectories of this step; trainer.shaping.length bounds it",
        Alarm.void: "most episodes are void, so what is trained on is what the servers let through: mend the user "
        "simulator or the engine (their reasons stand in metrics.jsonl), then run again",
        Alarm.informative: "nearly all groups succeed or fail as a whole, so most episodes are paid for nothing: use "
        "easier or harder tasks (proposer.gates.solvability), a larger trainer.group_size, or more trainer.refills",
        Alarm.exhausted: "no group of three steps running had different rewards, so nothing is learnt any more: the "
        "policy has collapsed (lower trainer.learning_rate), or the tasks are all too easy or too hard for it",
        Alarm.ratio: "engine and trainer disagree about the probabilities of many tokens: compare their precision and "
        "templates, and see that the engine has taken over the last weights; trainer.importance_cap bounds the harm",
        Alarm.dev_drop: "the dev tasks are solved clearly less often than before: the reward of training is not what "
        "they measure, or the steps are too large (trainer.learning_rate)",
        Alarm.collapse: "tasks of a condition that was solved fail again; they are drawn first from now on. Where that "
        "does not bring it back, the steps are too large (trainer.learning_rate), or trainer.kl too small",
    }
)
