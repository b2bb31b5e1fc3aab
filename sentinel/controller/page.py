"""The page of a diagnosis: every failed dialogue with its decisive turn marked.

    check_target(Path("page.html"), Path("results.json"))
    write_page(Path("page.html"), diagnose_file(Path("results.json")))

One HTML file without scripts or network. What comes out of dialogues is escaped, what a reader would not see (control
characters, marks that turn the direction of writing) is spelled out, and long texts are cut for the eye only.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import PackageLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sentinel.artifacts import write_text
from sentinel.controller.report import ESCAPED_LINE, Report, account, clipped, compact, expectation, remarks, step, why
from sentinel.errors import SentinelError
from sentinel.records import Failure, Json, Label, Message, Role, ToolCall, Trajectory

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of what a reader does not see."""
_HARMLESS = frozenset("\n\t\u200c\u200d")
"""Of those, what texts are made of: lines, tabs, joiners of letters."""
LONGEST = 100_000
"""Characters of a JSON document up to which it is unfolded."""


class Bubble(NamedTuple):
    """A message of the page."""

    message: Message
    labels: list[Label]
    decisive: bool


def bubbles(played: Trajectory, failure: Failure) -> Iterator[Bubble]:
    """The messages with the labels of their turn, which stand at the agent's first message of it."""
    told: set[int] = set()
    step = failure.labels[failure.decisive]
    for message in played.messages:
        first = message.role is Role.assistant and message.turn not in told
        told |= {message.turn} if first else set()
        labels = [label for label in failure.labels if first and label.turn == message.turn]
        yield Bubble(message, labels, step in labels)


def page(report: Report) -> str:
    """The page as HTML."""
    cases = [
        (case, played, list(bubbles(played, case.failure)))
        for case, played in zip(report.document.cases, report.dialogues, strict=True)
    ]
    told = {"account": account(report.document), "remarks": remarks(report.document)}
    return _template().render(document=report.document, cases=cases, **told)


def visible(value: object) -> object:
    """A text with what nobody would see spelled out, as Python's literals do; anything else is itself."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(map(_spelled, value.replace("\r\n", "\n")))


def _spelled(letter: str) -> str:
    hidden = unicodedata.category(letter) in _HIDDEN and letter not in _HARMLESS
    return letter.encode("unicode_escape").decode() if hidden else letter


def unfolded(text: str) -> str:
    """A JSON document over several lines, with the line breaks in its strings as such; any other text is itself."""
    if not text.startswith(("{", "[")) or len(text) > LONGEST:
        return text
    try:
        return _lines(json.loads(text))
    except (ValueError, RecursionError):
        return text


def _lines(value: Json) -> str:
    return ESCAPED_LINE.sub(r"\1\n", json.dumps(value, indent=2, ensure_ascii=False))


def called(call: ToolCall) -> str:
    """A call with an argument a line; texts are themselves."""
    told = (
        f"  {name}: {value if isinstance(value, str) else compact(value)}" for name, value in call.arguments.items()
    )
    return "\n".join([call.name, *told])


def check_target(target: Path, source: Path) -> None:
    """Raise `SentinelError` where a page cannot go to this file, or would take the place of what it is about."""
    if target.exists() and source.exists() and target.samefile(source):
        raise SentinelError(f"{target}: the page would overwrite the episodes; name another file for it")
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise SentinelError(f"{target}: not a plain file; name one for the page, such as page.html")
    if not target.resolve().parent.is_dir() and target.resolve().parent.exists():
        raise SentinelError(f"{target}: {target.parent} is not a folder")


def write_page(target: Path, report: Report) -> None:
    """Write the page; raises `ArtifactError` where the system refuses."""
    write_text(target, page(report))


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(
        loader=PackageLoader("sentinel.controller", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=visible,
    )
    filters = (step, expectation, why, clipped, called, unfolded)
    environment.filters |= {function.__name__: function for function in filters}
    return environment.get_template("diagnosis.html.j2")
