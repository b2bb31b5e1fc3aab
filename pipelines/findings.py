"""What `sentinel doctor` says: a check, what it found, and how to mend it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """What a check found."""

    ok = "ok"
    broken = "broken"
    unknown = "unknown"
    """It cannot be seen from here."""


class Finding(NamedTuple):
    """The answer of one check."""

    name: str
    state: State
    found: str
    mend: str = ""
    """What to do; empty if nothing is to be done."""


def unreadable(what: str, name: str, error: Exception, create: str) -> Finding:
    """What an error of the Kubernetes API says of an object: it is not there, or it cannot be seen."""
    if getattr(error, "status", None) == 404:
        return Finding(what, State.broken, f"{name} does not exist", create)
    return Finding(what, State.unknown, f"{name} cannot be read ({type(error).__name__})", "look with another account")
