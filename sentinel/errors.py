"""The one vocabulary of errors a user may see.

An error that a person can mend is a `SentinelError`: the command line prints it without a traceback and exits
with its `exit_code`. Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

EXTRAS: Mapping[str, str] = {
    "docker": "kfp",
    "dvc": "dvc",
    "httpx": "servers",
    "kfp": "kfp",
    "kubeflow": "trainjob",
    "loguru": "env",
    "openai": "servers",
    "safetensors": "train",
    "scipy": "evaluation",
    "tau2": "env",
    "tensorboard": "tensorboard",
    "tokenizers": "train",
    "torch": "train",
    "transformers": "train",
}
"""Module of an optional dependency -> the extra of our package that brings it."""


class SentinelError(Exception):
    """Something the user can mend; the message says where, what was found, what was expected and what to do."""

    exit_code = 2


class Fault(NamedTuple):
    """One fault of a specification; where it is about no place in a file, what is not known is `None`."""

    message: str
    file: str | None = None
    line: int | None = None
    """Lines and columns count from 1."""
    column: int | None = None
    path: str = ""
    """Dotted path of the value."""
    excerpt: str = ""
    """The line itself, with a mark under the column."""

    def __str__(self) -> str:
        """`file:line:column: path: message`, as editors and terminals understand it, and the excerpt."""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = ": ".join(part for part in (place, self.path, self.message) if part)
        return f"{text}\n{self.excerpt}" if self.excerpt else text


class SpecError(SentinelError):
    """One or more faults of a specification."""

    def __init__(self, faults: Iterable[Fault | str]) -> None:
        self.faults = [fault if isinstance(fault, Fault) else Fault(fault) for fault in faults]
        super().__init__("\n".join(self.problems))

    @property
    def problems(self) -> list[str]:
        """The faults as text."""
        return [str(fault) for fault in self.faults]


class ArtifactError(SentinelError):
    """An artifact is missing, corrupted or of a foreign schema; names its path and, for JSONL, the line."""

    def __init__(self, path: Path | str, problem: str, *, line: int | None = None, hint: str = "") -> None:
        where = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{where}: {problem}" + (f"\n    {hint}" if hint else ""))
        self.path = Path(path)
        self.problem = problem
        self.line = line


class LeakageError(SentinelError):
    """Training tasks share users, orders or gold signatures with an evaluation set."""


class StageError(SentinelError):
    """A stage could not do its work for a reason that its message explains."""

    exit_code = 1


class MissingExtraError(SentinelError):
    """Something is asked for that needs an optional dependency, which is not installed."""

    def __init__(self, module: str) -> None:
        extra = EXTRAS[module]
        super().__init__(
            f"this needs '{module}', which is not installed: it comes with the extra '{extra}'\n"
            f"    in the checkout: pip install -c constraints.txt -e '.[{extra}]'"
        )

    @classmethod
    def of(cls, error: ModuleNotFoundError) -> MissingExtraError | None:
        """The error as a message, if the module is one of an extra's; any other is a defect of ours."""
        module = (error.name or "").partition(".")[0]
        return cls(module) if module in EXTRAS else None
