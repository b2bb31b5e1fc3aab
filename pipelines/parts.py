"""Long experiments as a chain of runs: Kubernetes limits the size of one, and each continues from the bucket."""

from __future__ import annotations

from typing import NamedTuple

LONGEST = 8
"""Iterations of one run: more make an object that Argo cannot retry, and artifacts that the compare page drops."""


class Part(NamedTuple):
    """Some iterations of an experiment, as one run."""

    number: int
    """1 for the first."""
    of: int
    previous: str = ""
    """Kubeflow's id of the run that this one continues."""

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.number} of {self.of}"

    @property
    def first(self) -> bool:
        """Whether it makes the base."""
        return self.number == 1

    @property
    def last(self) -> bool:
        """Whether it makes the report."""
        return self.number == self.of

    def iterations(self, total: int) -> range:
        """The iterations that belong to it, counted from 1."""
        return range((self.number - 1) * LONGEST + 1, min(self.number * LONGEST, total) + 1)


def parts(iterations: int) -> int:
    """How many runs an experiment takes."""
    return -(-iterations // LONGEST)
