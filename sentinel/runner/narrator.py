"""Turns the output of `dvc repro` and of its stages into what a person wants to follow.

On a terminal the latest count of the running stage stands in one living line; elsewhere it is printed line by line.
"""

from __future__ import annotations

import re
from types import TracebackType

from rich.console import Console
from rich.status import Status

RUNNING = re.compile(r"^Running stage '(?:.*:)?([^':]+)':$")
UNCHANGED = re.compile(r"^(?:Stage )?'(?:.*:)?([^':]+)' didn't change, skipping$")
CACHED = re.compile(r"^Stage '(?:.*:)?([^':]+)' is cached - skipping run, checking out outputs$")
COUNT = re.compile(r"^\[[^\]]+\] (\d+/\d+ .*)$")
BUSY = re.compile(r"is busy, it is being blocked by:|Unable to acquire lock")
EXIT = re.compile(r"failed to run: .*, exited with (-?\d+)$")
HOLDER = re.compile(r"^  \((PID \d+)\): (.*)$")
NOISE = re.compile(
    r"^$|^> sentinel stage |^(Generating|Updating) lock file |^Use `dvc push`|^Data and pipelines are up to date"
    r"|^WARNING: '.*' is empty\.$|^If there are no processes with such PIDs|^To (track|enable) "
    r"|^\t(git add|dvc config core\.autostage) "
)


class Narrator:
    """Listens to the lines, counts what ran, and shows the rest."""

    def __init__(self, console: Console, stages: int) -> None:
        self.console = console
        self.stages = stages
        self.ran: list[str] = []
        self.restored: list[str] = []
        self.unchanged: list[str] = []
        self.busy = ""
        """What DVC says about the process that holds its lock."""
        self.code: int | None = None
        """The exit code of the stage that failed."""
        self._status: Status | None = console.status("looking for what changed") if console.is_terminal else None

    @property
    def current(self) -> str:
        """The stage that was started last."""
        return self.ran[-1] if self.ran else ""

    def __enter__(self) -> Narrator:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def hear(self, line: str) -> None:
        """Take one line of DVC's output."""
        if found := UNCHANGED.match(line):
            self.unchanged.append(found[1])
        elif found := CACHED.match(line):
            self.restored.append(found[1])
            self._say(f"{self._place()} {found[1]}: restored from the cache")
        elif found := RUNNING.match(line):
            self.ran.append(found[1])
            self._say(f"{self._place()} {found[1]}")
            self._live("")
        elif (count := COUNT.match(line)) and self._status:
            self._live(count[1])
        elif holder := HOLDER.match(line):
            self.busy = f"{holder[2]} ({holder[1]})"
        elif exited := EXIT.search(line):
            self.code = int(exited[1])
        elif BUSY.search(line):
            self.busy = self.busy or "it holds the lock"
        elif not NOISE.match(line):
            self._say(line)

    def outcome(self) -> str:
        """One sentence: what had to run."""
        if not self.ran and not self.restored:
            return f"nothing had to run: all {self.stages} stages are up to date"
        parts = [(self.ran, "ran"), (self.restored, "came from the cache"), (self.unchanged, "were up to date")]
        return ", ".join(f"{len(names)} {what}" for names, what in parts if names) + f" of {self.stages} stages"

    def _place(self) -> str:
        done = len(self.ran) + len(self.restored) + len(self.unchanged)
        return f"{min(done, self.stages):>2}/{self.stages}"

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def _live(self, text: str) -> None:
        if self._status:
            self._status.update(f"{self.current}  {text}")
