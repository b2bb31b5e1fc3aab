"""A worker, and then the whole rollout, are killed at random moments, ten times over: the result does not show it."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sentinel.artifacts import read_jsonl, write_jsonl
from sentinel.records import Trajectory
from tests.system.launcher import TRIALS
from tests.unit.builders import contents, copy_base, mixed, untrained_base

KILLS = 10
pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")


def members(session: int) -> dict[int, str]:
    """The living processes of a session, with their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            state, _, _, of = (folder / "stat").read_text().rpartition(") ")[2].split()[:4]
            if int(of) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text()
        except (OSError, ValueError):  # it is no process, or no longer one
            continue
    return found


class Program:
    """A program of the launcher."""

    def __init__(self, launcher: subprocess.Popen[str]) -> None:
        self._launcher = launcher

    def _ask(self, line: str) -> int:
        assert self._launcher.stdin and self._launcher.stdout
        print(line, file=self._launcher.stdin, flush=True)
        return int(self._launcher.stdout.readline())

    def start(self, folder: Path) -> None:
        self.pid = self._ask(str(folder))

    def ended(self, within: float | None) -> bool:
        """Whether it ends by itself within so many seconds."""
        handle = os.pidfd_open(self.pid)
        try:
            return bool(select.select([handle], [], [], within)[0])
        finally:
            os.close(handle)

    def workers(self) -> list[int]:
        return [pid for pid, command in members(self.pid).items() if "spawn_main" in command]

    def reap(self) -> int:
        """Its exit code; what it started must end as well."""
        code = self._ask("")
        patience = time.monotonic() + 30
        while left := members(self.pid):
            assert time.monotonic() < patience, f"left behind: {left}"
            time.sleep(0.05)
        return code

    def seconds(self, folder: Path) -> float:
        """How long it takes undisturbed."""
        self.start(folder)
        began = time.monotonic()
        assert self.ended(None) and self.reap() == 0
        return time.monotonic() - began


@contextmanager
def launched(kind: str, root: Path) -> Iterator[Program]:
    command = [sys.executable, "-m", "tests.system.launcher", kind]
    with subprocess.Popen(command, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        yield Program(launcher)


class Disturber:
    """Kills a worker, if there are any, and then the whole, at random moments."""

    def __init__(self, program: Program, longest: float) -> None:
        self._rng, self._program, self._longest = random.Random(11), program, longest
        self.worker_kills = self.kills = 0

    def _moment(self) -> float:
        return self._rng.uniform(0.0, self._longest)

    def finish(self, folder: Path, whole: Path, output: str) -> None:
        """Run it again and again until it gets through; once there were enough kills, it is left in peace."""
        while (code := self._attempt(folder)) != 0:
            assert code == -signal.SIGKILL
            assert not (folder / output).exists() or (folder / output).read_bytes() == (whole / output).read_bytes()
            self.kills += 1

    def _attempt(self, folder: Path) -> int:
        """Run it once; its exit code."""
        self._program.start(folder)
        if self.kills >= KILLS:
            self._program.ended(None)
        elif not self._program.ended(self._moment()) and not self._disturbed():
            os.kill(self._program.pid, signal.SIGKILL)  # nothing, if it has just ended
        return self._program.reap()

    def _disturbed(self) -> bool:
        """Kill a worker, if there are any; whether the program ends before it is its turn."""
        if not (workers := self._program.workers()):
            return False
        with suppress(ProcessLookupError):
            os.kill(self._rng.choice(sorted(workers)), signal.SIGKILL)
            self.worker_kills += 1
        return self._program.ended(self._moment())


def finished(folder: Path) -> dict[str, bytes]:
    """Output and journal, without what was being written when a writer was killed."""
    return {name: content for name, content in contents(folder).items() if not name.endswith(".tmp")}


def complete(trajectories: list[Trajectory], tasks: int, trials: int) -> bool:
    """Whether every (task, trial) is there once."""
    found = Counter((t.task.id, t.trial) for t in trajectories)
    return len(found) == tasks * trials and set(found.values()) == {1}


def scripted(root: Path, folder: Path) -> Path:
    write_jsonl(folder / "tasks.jsonl", mixed(29)[:28])
    return folder


def model(root: Path, folder: Path) -> Path:
    return untrained_base(root, folder) if folder.name == "whole" else copy_base(folder.parent / "whole", folder)


@pytest.mark.parametrize(
    ("prepare", "output", "size", "share"),
    [
        (scripted, "trajectories.jsonl", (28, TRIALS), 0.25),
        (model, "runs/small/01/rollout/trajectories.jsonl", (12, 2), 0.5),
    ],
    ids=["scripted", "model"],
)
def test_a_rollout_that_is_killed_ten_times_over_ends_as_an_undisturbed_one(
    prepare: Callable[[Path, Path], Path], output: str, size: tuple[int, int], share: float, root: Path, tmp_path: Path
) -> None:
    """A moment lies within a share of the time that an undisturbed run takes."""
    whole, rounds = prepare(root, tmp_path / "whole"), 0
    with launched(prepare.__name__, root) as program:
        disturber = Disturber(program, share * program.seconds(whole))
        while disturber.kills < KILLS:
            rounds += 1
            broken = prepare(root, tmp_path / f"broken-{rounds}")
            disturber.finish(broken, whole, output)
            assert finished(broken) == finished(whole)
    assert complete(read_jsonl(whole / output, Trajectory), *size)
    assert disturber.worker_kills >= KILLS / 2 or prepare is model
    print(f"{disturber.kills} kills, {disturber.worker_kills} of workers before, in {rounds} rounds")
