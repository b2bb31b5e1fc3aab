"""What a language model may say about failures, and what of it holds: every claim is held against the evidence.

    reading, dropped = hold_reading(failure, Reading(cause="…", turns=[4, 99]))      # turn 99 has no label: dropped
    themes, dropped = hold_themes(answer.themes, shown)

A model names, explains and merges. Counts, conditions, tools and evidence are the program's: the shapes have no place
for them, and whatever cites something that does not exist is dropped with a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sentinel.records import Failure

Place = tuple[str, int]
"""A trajectory and a turn."""
SHOWN = 120
"""Characters of a claim that the account of dropped ones repeats."""


class Flaw(StrEnum):
    """Why a claim is dropped."""

    no_answer = "no_answer"
    """The model gave none that fits the schema."""
    unknown_turn = "unknown_turn"
    """A cited turn has no evidence."""
    uncited = "uncited"
    """No cited evidence is left."""
    empty = "empty"
    """A claim without words."""
    unknown_pattern = "unknown_pattern"
    used_twice = "used_twice"
    """A pattern that an earlier theme has already."""
    unknown_evidence = "unknown_evidence"
    """A cited place does not show any pattern of the theme."""
    no_common_condition = "no_common_condition"
    """The patterns of a theme do not strike more often where what they have in common holds."""


def one_line(text: str) -> str:
    """A model's words on one line, without what a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


Turn = Annotated[int, Field(ge=0, le=9999)]
Name = Annotated[str, Field(max_length=200)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reading(_Shape):
    """What a model reads in one failed conversation."""

    cause: Annotated[str, Field(max_length=600), AfterValidator(one_line)]
    turns: Annotated[list[Turn], Field(max_length=8)]


class Cited(_Shape):
    """A place that a theme cites."""

    trajectory: Name
    turn: Turn


class Theme(_Shape):
    """Patterns that are one mistake."""

    patterns: Annotated[list[Name], Field(min_length=1, max_length=24)]
    name: Annotated[str, Field(max_length=80), AfterValidator(one_line)]
    explanation: Annotated[str, Field(max_length=800), AfterValidator(one_line)]
    instruction: Annotated[str, Field(max_length=800), AfterValidator(one_line)]
    evidence: Annotated[list[Cited], Field(max_length=12)]


class Themes(_Shape):
    """The answer of the reduction."""

    themes: Annotated[list[Theme], Field(max_length=24)]


class Dropped(NamedTuple):
    """A claim that does not hold."""

    flaw: Flaw
    claim: str

    def __str__(self) -> str:
        return f"{self.flaw}: {one_line(self.claim)[:SHOWN]}"


def hold_reading(failure: Failure, reading: Reading) -> tuple[Reading | None, list[Dropped]]:
    """The reading with the turns that have evidence, or `None` where nothing holds; and what was dropped."""
    if not reading.cause:
        return None, [Dropped(Flaw.empty, failure.trajectory)]
    known = {label.turn for label in failure.labels}
    kept = sorted(known & set(reading.turns))
    dropped = [
        Dropped(Flaw.unknown_turn, f"{failure.trajectory} turn {turn}: {reading.cause}")
        for turn in sorted(set(reading.turns) - known)
    ]
    if not kept:
        return None, [*dropped, Dropped(Flaw.uncited, f"{failure.trajectory}: {reading.cause}")]
    return reading.model_copy(update={"turns": kept}), dropped


def hold_themes(themes: Iterable[Theme], shown: Mapping[str, frozenset[Place]]) -> tuple[list[Theme], list[Dropped]]:
    """The themes that cite what exists, without what does not; and what was dropped.

    Args:
        themes: the model's.
        shown: the patterns that the model was shown, each with the places that show it.
    """
    kept: list[Theme] = []
    dropped: list[Dropped] = []
    used: set[str] = set()
    for theme in themes:
        held, flaws = _hold(theme, shown, used)
        dropped += flaws
        if held is not None:
            used |= set(held.patterns)
            kept.append(held)
    return kept, dropped


def _hold(
    theme: Theme, shown: Mapping[str, frozenset[Place]], used: set[str]
) -> tuple[Theme | None, Sequence[Dropped]]:
    if not theme.name or not theme.explanation:
        return None, [Dropped(Flaw.empty, " ".join(theme.patterns))]
    flaws = [Dropped(Flaw.unknown_pattern, f"{theme.name}: {name}") for name in theme.patterns if name not in shown]
    flaws += [Dropped(Flaw.used_twice, f"{theme.name}: {name}") for name in theme.patterns if name in used]
    patterns = list(dict.fromkeys(name for name in theme.patterns if name in shown and name not in used))
    places = {place for name in patterns for place in shown[name]}
    cited = [place for place in theme.evidence if (place.trajectory, place.turn) in places]
    flaws += [
        Dropped(Flaw.unknown_evidence, f"{theme.name}: {place.trajectory} turn {place.turn}")
        for place in theme.evidence
        if place not in cited
    ]
    if not patterns or not cited:
        return None, [*flaws, Dropped(Flaw.uncited, theme.name)]
    return theme.model_copy(update={"patterns": patterns, "evidence": cited}), flaws
