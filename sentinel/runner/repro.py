"""`sentinel run`: drives `dvc repro` for one experiment, shows how far it is, and leaves nothing running behind it.

DVC decides what has to run; this module prepares the ground (compiled file, DVC folder, stale locks and runs), starts
it in a process group of its own, turns its output into progress, and prints the result's table.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from sentinel import dvcfile, summary
from sentinel.errors import SentinelError, StageError
from sentinel.plan import Plan, plan
from sentinel.runner.narrator import Narrator
from sentinel.runner.recovery import discard_broken, release_dead
from sentinel.spec.profile import load_profile
from sentinel.stages.lock import exclusive
from sentinel.stages.parent import die_with

GRACE = 10.0
"""Seconds that DVC and a stage have to end after an interrupt."""


def run(spec: Path, profile: str | None) -> None:
    """Run every stage of the experiment that is not up to date, and show the result.

    Raises:
        SentinelError: the spec is wrong, another run holds the folder, or a stage failed.
    """
    project = Path()
    item = dvcfile.read(spec, project)
    planned = plan(item.experiment)
    load_profile(profile)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with exclusive("run", "another `sentinel run` works in this folder; wait for it, or stop it"):
        file = _prepare(item, project, console)
        narrator = Narrator(console, len(planned.stages))
        began = time.monotonic()
        with narrator:
            code = _repro(file, profile, narrator)
    if code:
        raise _failure(code, narrator)
    console.print(f"\n{narrator.outcome()} in {time.monotonic() - began:.0f} s", markup=False)
    _show(planned, project, console)


def _prepare(item: dvcfile.Known, project: Path, console: Console) -> str:
    """Bring the compiled file, the DVC folder and the locks in order; returns the DVC file to reproduce."""
    known = dvcfile.discover(project, [project / item.chain[0]], strict=False)
    compiled = dvcfile.compile_one(item, known, project)
    for name in dvcfile.write(compiled, project):
        console.print(f"compiled {name}", markup=False)
    _initialise(project)
    release_dead(project)
    for name in compiled:
        lock = (project / name).with_suffix(".lock")
        if discard_broken(lock):
            console.print(f"{lock} was cut short by a kill: finished stages come back from DVC's cache", markup=False)
        for stage in dvcfile.prune(project / name, project, dvcfile.outputs(known)):
            console.print(f"dropped {stage}: no longer in the plan", markup=False)
    return dvcfile.path_of(item.name)


def _dvc(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], env=_environment(None), capture_output=True, text=True
    )
    if done.returncode:
        raise StageError(f"dvc {' '.join(arguments)} failed:\n{done.stderr.strip()}")


def _initialise(project: Path) -> None:
    """Make the folder a DVC project; a git checkout is used where there is one, and not required."""
    root = project.resolve()
    git = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)
    if not (project / ".dvc").is_dir():
        how = ["--no-scm"] if git is None else [] if git == root else ["--subdir"]
        _dvc("init", "--quiet", *how)
        _dvc("config", "core.analytics", "false")
    configs = [project / ".dvc" / name for name in ("config", "config.local")]
    if git is None and not any("no_scm" in file.read_text(encoding="utf-8") for file in configs if file.is_file()):
        _dvc("config", "--local", "core.no_scm", "true")


def _environment(profile: str | None) -> dict[str, str]:
    """Stages find this interpreter's `sentinel` first; DVC reports nothing home and writes without delay."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    chosen = {"SENTINEL_PROFILE": profile} if profile else {}
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", **chosen}


def _child_setup(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with(parent)


def _repro(file: str, profile: str | None, narrator: Narrator) -> int:
    environment = _environment(profile)
    if shutil.which("sentinel", path=environment["PATH"]) is None:
        raise SentinelError("the command `sentinel`, which the stages run, is not on PATH: install the package")
    command = [sys.executable, "-m", "dvc", "repro", file]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        process_group=0, preexec_fn=partial(_child_setup, os.getpid()),
    )  # fmt: skip
    with _ending(process), process:
        assert process.stdout is not None
        for line in process.stdout:
            narrator.hear(line.rstrip("\n"))
    return process.returncode


@contextmanager
def _ending(process: subprocess.Popen[str]) -> Iterator[None]:
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


def _failure(code: int, narrator: Narrator) -> StageError:
    if narrator.busy:
        return StageError(f"another DVC process works in this folder: {narrator.busy}\n    wait for it, or stop it")
    where = f"stage {narrator.current} failed" if narrator.current else f"DVC failed with code {code}"
    return StageError(f"{where}; its message stands above. Run the same command again to continue from there.")


def _show(planned: Plan, project: Path, console: Console) -> None:
    report = next(stage for stage in planned.own if stage.kind == "report").output
    for renderable in summary.tables(project / report / "metrics.json", summary.seconds(planned, project)):
        console.print(renderable)
    console.print(f"\nReport: {report}/report.html", markup=False)
