"""One process at a time, by a file lock that the system releases when its holder dies."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentinel.errors import StageError

LOCKS = Path(".sentinel/locks")


@contextmanager
def in_turn(folder: Path, name: str, notice: str) -> Iterator[None]:
    """Hold the lock `name` of a folder; if another process holds it, say so on stderr and wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: {notice}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def exclusive(name: str, refusal: str) -> Iterator[None]:
    """Hold the lock `name` of this project, or raise `StageError(refusal)` if another process holds it."""
    path = LOCKS / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(refusal) from None
        yield
