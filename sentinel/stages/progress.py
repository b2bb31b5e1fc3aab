"""Progress of one stage: a bar for a person at a terminal, plain lines everywhere else.

    progress.start(12, "steps")
    progress.advance(reward=0.41)        # [train 02] 3/12 steps, reward 0.41, 1.4 s/step

Lines are printed at most every two seconds, so logs stay readable; the first and the last are never dropped.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

INTERVAL = 2.0


def _show(value: float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Progress:
    """Tells how far a stage is; a stage may start several counts, one after the other."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self.label = label
        self._stream = stream or sys.stderr
        self._bar = self._rich() if self._stream.isatty() else None
        self._task: TaskID | None = None
        self._total = self._done = self._first = 0
        self._unit = ""
        self._began = self._printed = 0.0

    def _rich(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[more]}"),
        )
        console = Console(file=self._stream, highlight=False)
        return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)

    def start(self, total: int, unit: str = "steps", done: int = 0) -> None:
        """Begin to count `total` units, `done` of which were finished by an earlier, interrupted attempt."""
        self._total, self._unit, self._done, self._first = total, unit, done, done
        self._began = time.monotonic()
        if self._bar:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._bar.start()
            self._task = self._bar.add_task(f"{self.label} {unit}", total=total, completed=done, more="")
        else:
            self._print("")

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """Count `n` more units, and show the latest figures beside them."""
        self._done += n
        more = ", ".join(f"{name.replace('_', ' ')} {_show(value)}" for name, value in figures.items())
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=n, more=more)
        elif self._done >= self._total or time.monotonic() - self._printed >= INTERVAL:
            self._print(more)

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bar:
            self._bar.console.print(f"[{self.label}] {text}", markup=False)
        else:
            print(f"[{self.label}] {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        if self._bar:
            self._bar.stop()

    def _print(self, more: str) -> None:
        self._printed = time.monotonic()
        pace = "" if f"{self._unit}/s" in more else self._pace()
        self.say(", ".join(part for part in (f"{self._done}/{self._total} {self._unit}", more, pace) if part))

    def _pace(self) -> str:
        """Seconds per unit of slow things, units per second of fast ones."""
        counted, seconds = self._done - self._first, self._printed - self._began
        if counted <= 0 or seconds <= 0:
            return ""
        if counted > seconds:
            return f"{_show(counted / seconds)} {self._unit}/s"
        return f"{_show(seconds / counted)} s/{self._unit.removesuffix('s')}"
