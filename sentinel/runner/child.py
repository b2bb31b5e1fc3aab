"""DVC as a child process that neither outlives us nor loses its stage: for `sentinel run`, and for pods."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from sentinel.stages.parent import die_with

GRACE = 10.0
"""Seconds that DVC and a stage have to end after an interrupt."""


def environment(profile: str | None = None) -> dict[str, str]:
    """Stages find this interpreter's `sentinel` first; DVC reports nothing home and writes without delay."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    chosen = {"SENTINEL_PROFILE": profile} if profile else {}
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", **chosen}


def _child_setup(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with(parent)


def start(command: Sequence[str], variables: Mapping[str, str], folder: Path = Path()) -> subprocess.Popen[str]:
    """Start a command in a process group of its own; its stdout and stderr come as one stream of lines."""
    return subprocess.Popen(
        command, env=variables, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", process_group=0, preexec_fn=partial(_child_setup, os.getpid()),
    )  # fmt: skip


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """On SIGINT or SIGTERM, interrupt DVC and its stage, wait for them, and leave with the usual code.

    DVC gets SIGINT in both cases: it waits for the stage then, whereas SIGTERM would kill it at once.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for sent in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(process.pid, sent)
                process.wait(GRACE)
                break
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
