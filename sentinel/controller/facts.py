"""What the agent told the user: facts it did not say or said wrongly, and statements it must not make."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sentinel.controller.steps import Said, Steps
from sentinel.env.overlay import TRANSFER_TOOL, WRITE_TOOLS
from sentinel.records import Label, LabelKind, Trajectory

FAR = 2.0
"""Ratio from which on another number is no attempt at the wanted one."""
_NUMBER = re.compile(
    r"(?<![\w#.,–-])\$?(\d[\d,]*(?:\.\d+)?)(?![\w–-]|[.)]\s|\s*(?:business |calendar )?(?:day|hour|min))"
)
_PLAIN = re.compile(r"\d+(?:\.\d+)?")


def statements(trajectory: Trajectory, steps: Steps) -> Iterator[Label]:
    """Labels of what was said; commas are removed as the score removes them."""
    task = trajectory.task
    said = [(turn, text.lower().replace(",", "")) for turn, text in steps.texts]
    for fact in task.communicate:
        if not any(fact.lower() in text for _, text in said):
            yield _instead(fact, steps) or Label(kind=LabelKind.missing_communication, turn=steps.last, expected=fact)
    tool = next((call.name for call in task.gold if call.name in WRITE_TOOLS), None)
    for statement in task.avoid:
        needle = statement.lower().replace(",", "")
        turn = next((turn for turn, text in said if needle in text), None)
        if turn is not None:
            transfer = "transfer" in needle
            kind = LabelKind.needless_transfer if transfer else LabelKind.false_refusal
            yield Label(kind=kind, turn=turn, tool=TRANSFER_TOOL if transfer else tool, actual=statement)


def _instead(fact: str, steps: Steps) -> Label | None:
    """The number that the agent gave for the wanted one: its own, since what it read or was told is a quotation."""
    if not _PLAIN.fullmatch(fact):
        return None
    wanted = float(fact)
    near = [
        (turn, number)
        for turn, number in _numbers(steps.texts)
        if ("." in number) == ("." in fact) and _near(float(number), wanted)
    ]
    quoted = _quoted(steps) if near else set()
    own = [(turn, number) for turn, number in near if number not in quoted]
    if not own:
        return None
    turn, number = min(own, key=lambda told: (abs(float(told[1]) - wanted), told[0]))
    return Label(kind=LabelKind.wrong_communication, turn=turn, expected=fact, actual=number)


def _near(number: float, wanted: float) -> bool:
    return wanted / FAR <= number <= wanted * FAR


def _numbers(said: Said) -> Iterator[tuple[int, str]]:
    for turn, text in said:
        for found in _NUMBER.finditer(text):
            yield turn, found[1].replace(",", "")


def _quoted(steps: Steps) -> set[str]:
    """Numbers in the tools' answers, sums excepted, and in the user's words."""
    answers = (step.answer for step in steps.calls if step.call.name != "calculate")
    return {number for text in answers for number in _PLAIN.findall(text)} | {n for _, n in _numbers(steps.heard)}
