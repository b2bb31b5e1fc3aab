"""Rollouts that start at once, to be killed at will: forks of a process that has imported all they need.

    python -m tests.system.launcher scripted     # or: model

Reads a folder to play in and answers the pid of the program, which leads a session of its own; reads any line, waits
for the program's end and answers its exit code; and so on. Until then the pid is the program's, dead or alive. Spawned
workers import this module, so it is light.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

Play = Callable[[Path], None]
TRIALS = 8
"""Of every task, with the scripted engine: enough to be killed ten times over."""


def scripted() -> Play:
    """Worker processes with a scripted engine."""
    from tests.system import stations

    return lambda folder: stations.stage(folder, 2, TRIALS)


def model() -> Play:
    """The rollout stage with a small model, in one process."""
    from sentinel.stages import rollout
    from tests.unit.builders import small, stage_context

    experiment = small(Path.cwd(), rollout={"chunk": 2})
    return lambda folder: rollout.run(stage_context(experiment, "rollout", folder, 1))


def fork(play: Play, folder: Path) -> int:
    if pid := os.fork():
        return pid
    os.setsid()
    code = 1
    try:
        play(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(play: Play) -> None:
    while line := sys.stdin.readline().strip():
        pid = fork(play, Path(line))
        print(pid, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main({"scripted": scripted, "model": model}[sys.argv[1]]())
