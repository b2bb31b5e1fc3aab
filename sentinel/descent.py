"""The line of descent of a task, from the pattern to the update: what stages write down beside the tasks themselves.

    pattern (control/patterns.jsonl) -> task (propose/tasks.jsonl: origin) -> `Probed` (propose/probes.jsonl)
        -> `Drawn` (train/curriculum.jsonl) -> episodes (train/trajectories.jsonl), step (train/metrics.jsonl)

`sentinel trace RUN TASK` reads along it.
"""

from __future__ import annotations

from enum import StrEnum

from sentinel.records import Record, Task


def condition_of(task: Task) -> str:
    """What tasks of one kind share: the generator's condition, or else the pattern that the task was made for."""
    return str(task.knobs.get("condition") or task.origin.pattern or "")


class Probed(Record):
    """What became of the episodes of one candidate, before any of them was dropped for it."""

    task: str
    condition: str
    pattern: str | None = None
    successes: int
    trials: int
    """Episodes that count."""
    void: int = 0


class Use(StrEnum):
    """Why the curriculum chose a prompt."""

    targeted = "targeted"
    """For what it can teach; tasks of a condition that collapsed are among these."""
    review = "review"
    """A resting task: to see whether the solved one is forgotten, or the unsolved one within reach."""
    general = "general"
    """From the natural mix."""


class Drawn(Record):
    """One group of episodes of one training step."""

    step: int
    refill: bool
    """Whether it was drawn in place of a group without information."""
    task: str
    condition: str
    pattern: str | None = None
    use: Use
    estimate: float
    """The success rate that the curriculum expected."""
    successes: int
    trials: int
    """Episodes that count."""
    update: int | None = None
    """Number of the iteration's update that the group took part in; `None` where it carried no information."""
