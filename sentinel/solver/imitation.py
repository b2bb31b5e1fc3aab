"""Supervised fine-tuning on stored conversations, as a lesson of the warm start: the likelihood of the agent's tokens.

    lesson = Imitation(backend, conversations, batch_size=16, rng=generator(seed, "warmup", "imitation"))

The steps are those of the training backends (`sentinel.solver.update`) with another objective, so whatever they can do,
several processes and gradient checkpointing included, holds here too. The mean is over all the agent's tokens of a
batch. Left out: a schedule of the step size, and a loss on what the agent reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sentinel.errors import StageError
from sentinel.llm.transcript import Tokens
from sentinel.solver.batch import Sample
from sentinel.solver.update import Backend

Conversation = Sequence[Tokens]
"""The stretches of one conversation, each a sample of its own."""


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Endless batches of numbers below `count`: each epoch a new order."""
    while True:
        order = rng.permutation(count).tolist()
        yield from (order[begin : begin + size] for begin in range(0, count, size))


class Imitation:
    """A `Lesson` (`sentinel.solver.phases`) over a backend that maximises `likelihood`."""

    def __init__(
        self, backend: Backend, conversations: Sequence[Conversation], *, batch_size: int, rng: np.random.Generator
    ) -> None:
        self._backend, self._conversations = backend, conversations
        self._batches = _batches(len(conversations), batch_size, rng)

    def step(self, number: int) -> float:
        """One step on the next batch."""
        samples = [Sample(tokens, 1.0) for n in next(self._batches) for tokens in self._conversations[n]]
        update = self._backend.update(samples)
        if update is None:
            raise StageError(
                f"step {number} of the imitation: loss or gradient is not finite, and nothing more can be learnt\n"
                "    lower warmup.imitation.learning_rate and run again; the policy of the phase before it is kept"
            )
        return update.loss

    def save(self, path: Path) -> None:
        """Masters, moments and counters."""
        self._backend.save(path)

    def load(self, path: Path, done: int) -> None:
        """Continue after step `done`: also the order of the batches does."""
        self._backend.load(path)
        for _ in range(done):
            next(self._batches)
