"""The diagnosis of a file, for people and for programs: `sentinel diagnose`.

    report = diagnose_file(Path("results.json"), min_support=2)
    report.document        # a record: every failure with its decisive step and whose it is, the patterns, the account
    table(report.document)

What comes out of dialogues reaches no terminal as it is, and long texts are cut for the eye only; the same as a page is
`sentinel.controller.page`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sentinel.artifacts import canonical
from sentinel.controller.attribution import diagnose
from sentinel.controller.batch import Batch, Placed, read_batch
from sentinel.controller.patterns import find_patterns, profiles_of
from sentinel.controller.suspicion import ENVIRONMENT_FAULT
from sentinel.records import Failure, Label, Outcome, Part, Party, Pattern, Record, Role, Tally, Trajectory

SHOWN = 4000
"""Characters of a message that the page shows."""
PLACES = 20
"""Places that the table names under a heading."""

ESCAPED_LINE = re.compile(r"(?<!\\)((?:\\\\)*)\\n")
"""A line break in a JSON string; the group is of escaped backslashes before it."""


class Case(Part):
    """One failed episode."""

    place: str
    """Where it stands in the file."""
    turn_idx: int | None
    """Where the decisive turn begins in the episode's messages, from 0: tau2's `turn_idx`. A turn is a message of the
    agent, so that our numbers are smaller."""
    task: str
    trial: int
    party: Party
    reason: str
    decisive: Label
    failure: Failure


class Diagnosed(Record):
    """A file of episodes, diagnosed."""

    file: str
    successes: int
    tally: Tally
    """Kept are the successes and the agent's failures; rejected those of others, by party; void by reason."""
    unknown: tuple[str, ...]
    """Episodes of unknown tasks; they are not in the tally."""
    flawed: tuple[str, ...] = ()
    """Void ones whose record is not whole, and in what."""
    repeated: tuple[str, ...] = ()
    """Episodes that stand in the file before, message by message; they are not in the tally."""
    contradicted: tuple[str, ...] = ()
    """Episodes that a replay scores otherwise than the file does."""
    kinds: dict[str, int]
    """The agent's failures by decisive label."""
    cases: tuple[Case, ...]
    patterns: tuple[Pattern, ...]


class Report(NamedTuple):
    """A diagnosis with its dialogues."""

    document: Diagnosed
    dialogues: tuple[Trajectory, ...]
    """One for each case."""


def diagnose_file(path: Path, min_support: int = 2) -> Report:
    """Diagnose every episode of a file; raises `ArtifactError` for a file that holds none, or not whole ones."""
    batch = read_batch(path)
    diagnosis = diagnose(batch.trajectories)
    failed = _failed(batch)
    cases = tuple(_case(failure, *placed) for failure, placed in zip(diagnosis.failures, failed, strict=True))
    kinds = Counter(case.decisive.kind.value for case in cases if case.party is Party.agent)
    document = Diagnosed(
        file=path.name,
        successes=len(diagnosis.successes),
        tally=diagnosis.tally,
        unknown=batch.unknown,
        flawed=batch.flawed,
        repeated=batch.repeated,
        contradicted=batch.contradicted,
        kinds=dict(sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))),
        cases=cases,
        patterns=tuple(find_patterns(profiles_of(diagnosis), min_support)),
    )
    return Report(document, tuple(played for _, played in failed))


def _failed(batch: Batch) -> list[Placed]:
    """The failed episodes with their places, in the order in which `diagnose` lists them."""
    placed = zip(batch.places, batch.trajectories, strict=True)
    ordered = sorted(placed, key=lambda each: (each[1].task.id, each[1].trial))
    return [(place, played) for place, played in ordered if played.outcome is Outcome.failure]


def _case(failure: Failure, place: str, played: Trajectory) -> Case:
    decisive = failure.labels[failure.decisive]
    return Case(
        place=place,
        turn_idx=_message_of(played, decisive.turn),
        task=failure.task,
        trial=failure.trial,
        party=failure.attribution.party,
        reason=failure.attribution.reason,
        decisive=decisive,
        failure=failure,
    )


def _message_of(played: Trajectory, turn: int) -> int | None:
    """Index of a turn's first message of the agent, notes of ours not counted."""
    theirs = [message for message in played.messages if not message.content.startswith(ENVIRONMENT_FAULT)]
    wanted = (n for n, message in enumerate(theirs) if message.role is Role.assistant and message.turn == turn)
    return next(wanted, None)


def account(document: Diagnosed) -> str:
    """Where every episode went."""
    tally = document.tally
    others = [f"{count} failed by {party}" for party, count in sorted(tally.rejected.items())]
    voids = [f"{count} void ({reason})" for reason, count in sorted(tally.void.items())] or ["0 void"]
    agent = tally.kept - document.successes
    parts = [f"{document.successes} succeeded", f"{agent} failed by agent", *others, *voids]
    if document.unknown:
        parts.append(f"{len(document.unknown)} of unknown tasks left out")
    if document.repeated:
        parts.append(f"{len(document.repeated)} repeated left out")
    return f"{document.file}: {tally.requested} episodes: {', '.join(parts)}"


def remarks(document: Diagnosed) -> list[tuple[str, tuple[str, ...]]]:
    """What is worth a look besides the failures: a heading, and the places it is about."""
    found = [
        ("Left out, because their task is not known:", document.unknown),
        ("Left out, because they stand in the file before:", document.repeated),
        ("Void, because their record is not whole:", document.flawed),
        ("Rewards in the file that a replay does not give:", document.contradicted),
    ]
    return [(heading, places) for heading, places in found if places]


def table(document: Diagnosed) -> str:
    """The failures and the patterns as lines of text."""
    rows = [("task", "place", "turn", "whose", "decisive step", "reason"), *map(_row, document.cases)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]) for row in rows
    ]
    lines = [line.rstrip() for line in lines] if document.cases else []
    patterns = [f"{pattern.support} x {pattern.description}" for pattern in document.patterns]
    found = ["", "Recurring errors of the agent:", *patterns] if patterns else []
    notes = [line for heading, places in remarks(document) for line in ("", heading, *_listed(places))]
    return "\n".join([account(document), *([""] if lines else []), *lines, *found, *notes])


def _listed(places: Sequence[str]) -> Iterator[str]:
    """The first places, and how many more there are."""
    yield from (printable(clipped(place, 160)) for place in places[:PLACES])
    if len(places) > PLACES:
        yield f"and {len(places) - PLACES} more: see --json"


def why(case: Case) -> str:
    """What was expected and found, or, of a failure of somebody else's, the reason."""
    return (expectation(case.decisive) if case.party is Party.agent else "") or case.reason


def _row(case: Case) -> tuple[str, str, str, str, str, str]:
    return (
        printable(f"{case.task}#{case.trial}"),
        case.place,
        str(case.decisive.turn),
        case.party.value,
        printable(step(case.decisive)),
        printable(clipped(why(case), 160)),
    )


def printable(text: str) -> str:
    """A text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def step(label: Label) -> str:
    """A label in a few words: `wrong_argument cancel_pending_order(reason)`."""
    place = f" {label.tool}" if label.tool else ""
    return f"{label.kind.value}{place}" + (f"({label.argument})" if label.argument else "")


def expectation(label: Label) -> str:
    """What was wanted and what was done, as far as the label says."""
    wanted = "" if label.expected is None else f"expected {compact(label.expected)}"
    done = "" if label.actual is None else f"found {compact(label.actual)}"
    return ", ".join(part for part in (wanted, done) if part)


def compact(value: object) -> str:
    """A JSON value as text on one line; a string is itself."""
    return " ".join(value.split()) if isinstance(value, str) else ESCAPED_LINE.sub(r"\1 ", canonical(value))


def clipped(text: str, limit: int = SHOWN) -> str:
    """A text of bounded length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"
