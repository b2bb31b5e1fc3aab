"""The one vocabulary of errors a user may see.

An error that a person can mend is a `SentinelError`: the command line prints it without a traceback and exits
with its `exit_code`. Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path


class SentinelError(Exception):
    """Something the user can mend; the message says where, what was found, what was expected and what to do."""

    exit_code = 2


class SpecError(SentinelError):
    """One or more faults of a specification, each already located (`file:line:col: …`)."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ArtifactError(SentinelError):
    """An artifact is missing, corrupted or of a foreign schema; names its path and, for JSONL, the line."""

    def __init__(self, path: Path | str, problem: str, *, line: int | None = None, hint: str = "") -> None:
        where = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{where}: {problem}" + (f"\n    {hint}" if hint else ""))
        self.path = Path(path)
        self.line = line


class LeakageError(SentinelError):
    """Training tasks share users, orders or gold signatures with an evaluation set."""


class StageError(SentinelError):
    """A stage could not do its work for a reason that its message explains."""

    exit_code = 1
