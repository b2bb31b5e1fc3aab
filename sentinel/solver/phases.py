"""A phase of the warm start, step by step: logged, and after a kill continued from its last checkpoint.

    log = run_phase("clean", lesson, steps=850, checkpoints=Checkpoints(state / "clean-steps", say), every=50, ...)

A lesson must make the same steps whether it was continued or not; then so does the phase, to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sentinel.records import Json, Record
from sentinel.solver.checkpoint import Checkpoints

LOG_EVERY = 10


class WarmupStep(Record):
    """One logged step of the warm start."""

    phase: str
    step: int
    loss: float
    """Mean negative log-likelihood of the assistant's tokens since the last logged step, nats."""


class Lesson(Protocol):
    """What is done in a phase."""

    def step(self, number: int) -> float:
        """Optimizer step `number`, from 1; returns the mean negative log-likelihood of the assistant's tokens."""
        ...

    def save(self, path: Path) -> None:
        """Write all that is needed to continue, atomically, as safetensors."""
        ...

    def load(self, path: Path, done: int) -> None:
        """Continue from what `save` wrote after step `done`."""
        ...


class Progress(Protocol):
    """Where the phase tells how far it is."""

    def start(self, total: int, unit: str = "steps", done: int = 0) -> None:
        """So many steps there are, and so many were done before."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """So many more steps are done."""


class _Log:
    """Means over `LOG_EVERY` steps."""

    def __init__(self, phase: str, state: Json) -> None:
        self._phase = phase
        self.entries = [WarmupStep.model_validate(each) for each in state.get("log", ())]
        self._losses: list[float] = state.get("losses", [])

    def note(self, step: int, loss: float) -> float:
        """Take in a step; the mean since the last entry."""
        self._losses.append(loss)
        mean = round(sum(self._losses) / len(self._losses), 6)
        if step % LOG_EVERY == 0:
            self.entries.append(WarmupStep(phase=self._phase, step=step, loss=mean))
            self._losses.clear()
        return mean

    def state(self) -> dict[str, Json]:
        """For the checkpoint."""
        return {"log": [each.model_dump(mode="json") for each in self.entries], "losses": list(self._losses)}


def run_phase(
    name: str, lesson: Lesson, *, steps: int, checkpoints: Checkpoints, every: int, progress: Progress
) -> list[WarmupStep]:
    """Make the steps of a phase, or what is left of them; returns the log of all of them.

    Args:
        name: of the phase.
        lesson: what makes them.
        steps: how many there are.
        checkpoints: of this phase alone.
        every: steps between checkpoints, which is what a kill can cost; the last step has none.
        progress: who is told.
    """
    done, state = 0, {}
    if found := checkpoints.load():
        manifest, tensors = found
        lesson.load(tensors, manifest.step)
        done, state = manifest.step, manifest.state
    log = _Log(name, state)
    progress.start(steps, f"{name} steps", done=done)
    for number in range(done + 1, steps + 1):
        progress.advance(loss=log.note(number, lesson.step(number)))
        if number % every == 0 and number < steps:
            checkpoints.save(number, lesson.save, log.state())
    return log.entries
