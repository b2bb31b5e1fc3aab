"""A study: arms times seeds over shared bases, which expands into experiments (`sentinel.spec.expand`).

    kind: Study
    metadata: {name: retail-cpu-arms}
    spec:
      seeds: [7, 8, 9]
      arms:
        general: {extends: ../retail-cpu-general.yaml}
        targeted: {extends: ../retail-cpu.yaml, spec: {trainer: {steps: 24}}}

Arms should name the same base: then they start from the same weights and are evaluated on the same tasks, and their
differences can be paired. The first arm is the one that the others are compared with.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sentinel.spec.models import Metadata, Name, Section

Seed = Annotated[int, Field(ge=0)]


class Arm(Section):
    """One of the ways that are compared."""

    extends: Annotated[str, Field(min_length=1)]
    """The experiment it is, relative to the study."""
    spec: dict[str, Any] = Field(default_factory=dict)
    """What it changes in that one's `spec`: maps merge, lists replace, null deletes."""


class StudySpec(Section):
    """What is compared, and how often it is repeated."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Every arm runs once with each of them as its `spec.seed`; the base keeps its own."""
    arms: Annotated[dict[Name, Arm], Field(min_length=1)]
    """Name -> arm; the first is what the others are compared with."""

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} holds a seed twice, which would be the same run twice")
        return value


class Study(Section):
    """A study file."""

    apiVersion: Literal["sentinel.dev/v1alpha1"]
    kind: Literal["Study"]
    metadata: Metadata
    spec: StudySpec


def member_name(study: str, arm: str, seed: int) -> str:
    """The name of the experiment that an arm is with one seed."""
    return f"{study}-{arm}-s{seed}"
